"""P0's declaration: its systems, which notebooks and ledger share, and its claims."""

from __future__ import annotations

import dataclasses

import pytest
from fabricated import HIGH, LOW, records, runs_of

from capslib import claims, study
from capslib.claims import REFUTED, SUPPORTED
from capslib.errors import CapslibError
from capslib.papers import of_profile, p0


def test_the_shared_band_ends_below_what_the_slowest_clip_has():
    for rate in (8_000, 16_000):
        systems = p0.perturbed_systems(rate)
        _, _, changes = systems[f"untrained, {p0.SHARED_BAND}"]
        options = dict(changes["features"].options)
        top = options["num_bins"] * rate / options["n_fft"]
        assert 0.85 * 0.7 * rate / 2 < top <= 0.9 * 0.7 * rate / 2 and changes["epochs"] == 0
        assert changes["perturb"] == systems["capsules, speed"][2]["perturb"] and len(systems) == 12


def test_systems_of_equal_configuration_share_their_runs():
    systems = {
        name: entry for group in (p0.BASELINES, p0.ROUTING, p0.SIZES, p0.DECODERS) for name, entry in group.items()
    }
    grid = study.grid(["synth_digits"], systems, seeds=[0], folds=1)
    keys = {run.system: run.key for run in grid.runs}
    assert keys["caps"] == keys["3 iterations"] == keys["D = 16"] == keys["no decoder"]
    assert len(set(keys.values())) == len(keys) - 3


def test_a_parameter_is_one_value_or_one_per_profile():
    assert of_profile("emodb", "full") == "emodb"
    assert of_profile({"quick": "a", "full": "b"}, "full") == "b"
    with pytest.raises(CapslibError, match="unknown profile 'fulll': did you mean 'full'"):
        of_profile({"quick": "a", "full": "b"}, "fulll")


def test_the_source_of_a_transfer_is_the_first_that_is_available():
    keys = "iemocap, synth_gender, synth_digits"
    source = p0.transfer_source(keys, "caps", "quick")
    assert source == study.grid(["synth_gender"], ["caps"], "quick", seeds=[0]).runs[0].config
    systems = p0.transfer_systems(keys, "quick")
    assert systems["untrained, tiled"][2]["source"] == dataclasses.replace(source, epochs=0)
    assert systems["LSTM, tiled"][2]["source"] == p0.transfer_source(keys, "lstm", "quick")
    assert systems["capsules, joined"][1] == {"source_capsules": 2}


def test_a_source_that_is_not_available_is_said_in_one_sentence():
    with pytest.raises(
        CapslibError, match=r"the source of the transfer, iemocap:emotion4, is not available: .*IEMOCAP"
    ):
        p0.transfer_source("iemocap", "caps", "quick")
    source = p0.transfer_source("synth_gender", "caps", "quick")
    with pytest.raises(CapslibError, match="unknown fold of synth_gender:gender 'fold99'"):
        study.grid(["synth_digits"], ["caps"], source=dataclasses.replace(source, split="fold99"))


def test_p0_s_own_columns_differ_more_than_its_systems():
    finding = claims.printed(p0.resolved)(runs_of())
    assert finding.verdict == REFUTED
    assert "FSDD: equal columns differ by 0.047, CAPS and ATT by 0.003" in finding.evidence


def test_claims_name_systems_that_the_grids_have():
    """A claim about FSDD is supported by runs of the systems that it names; names are those of the grids."""
    made = runs_of(*(records("fsdd:digit", system, HIGH if system == "cnn" else LOW) for system in p0.BASELINES))
    assert p0.CLAIMS["on FSDD the CNN is best"].answer(made).verdict == SUPPORTED
    assert {run.system for run in p0.grids("quick")[0].runs} >= {*p0.BASELINES, p0.ONE, p0.FIVE, "D = 2", "weight 0.5"}
