"""Systems that notebooks and ledger share: perturbed clips and the source of a transfer."""

from __future__ import annotations

import dataclasses

import pytest

from capslib import recipes, study
from capslib.errors import CapslibError


def test_the_shared_band_ends_below_what_the_slowest_clip_has():
    for rate in (8_000, 16_000):
        systems = recipes.perturbed_systems(rate)
        _, _, changes = systems[f"untrained, {recipes.SHARED_BAND}"]
        options = dict(changes["features"].options)
        top = options["num_bins"] * rate / options["n_fft"]
        assert 0.85 * 0.7 * rate / 2 < top <= 0.9 * 0.7 * rate / 2 and changes["epochs"] == 0
        assert changes["perturb"] == systems["capsules, speed"][2]["perturb"] and len(systems) == 12


def test_a_parameter_is_one_value_or_one_a_profile():
    assert recipes.of_profile("emodb", "full") == "emodb"
    assert recipes.of_profile({"quick": "a", "full": "b"}, "full") == "b"
    with pytest.raises(CapslibError, match="unknown profile 'fulll': did you mean 'full'"):
        recipes.of_profile({"quick": "a", "full": "b"}, "fulll")


@pytest.mark.parametrize("keys", ["iemocap, synth_gender, synth_digits", ["iemocap", "synth_gender", "synth_digits"]])
def test_the_source_of_a_transfer_is_the_first_that_is_here(keys):
    source = recipes.transfer_source(keys, "caps", "quick", epochs=0)
    first = study.grid(["synth_gender"], ["caps"], "quick", seeds=[0], epochs=0).runs[0].config
    assert source == first and source.epochs == 0


def test_a_source_that_is_not_here_is_said_in_one_sentence():
    with pytest.raises(CapslibError, match=r"the source of the transfer, iemocap:emotion4, is not here: .*IEMOCAP"):
        recipes.transfer_source("iemocap", "caps", "quick")
    source = recipes.transfer_source("synth_gender", "caps", "quick")
    with pytest.raises(CapslibError, match="unknown fold of synth_gender:gender 'fold99'"):
        study.grid(["synth_digits"], ["caps"], source=dataclasses.replace(source, split="fold99"))


def test_untrained_networks_stand_behind_the_same_trained_ones():
    grid = recipes.p2_grid(["synth_emotion"], "quick", ["CNN_SeqCap"], seeds=(0, 1), folds=1, epochs=2)
    both = recipes.with_untrained(grid)
    assert both.runs[:2] == grid.runs and [run.system for run in both.runs[2:]] == ["CNN_SeqCap, untrained"] * 2
    assert [dataclasses.replace(run.config, epochs=2) for run in both.runs[2:]] == [run.config for run in grid.runs]
    assert {run.config.epochs for run in both.runs[2:]} == {0} and len({run.key for run in both.runs}) == 4
