"""Looking into a trained capsule network: what must hold whatever it learnt, and that a look is made once."""

from __future__ import annotations

import json

import pytest
import torch

from capslib import insight, models, study, training
from capslib.errors import CapslibError


def part(lengths=(12, 30, 7)) -> training.Part:
    generator = torch.Generator().manual_seed(0)
    return training.Part([torch.randn(n, 6, generator=generator) for n in lengths], torch.tensor([0, 2, 1]))


def network(**options) -> models.AudioModel:
    torch.manual_seed(0)
    return models.build("caps", 6, 3, **options).eval()


def test_one_pass_couples_evenly_and_more_passes_less_so():
    model = network()
    with torch.no_grad():
        model.capsules.weight.mul_(20)  # as if trained: agreement that counts
    look = insight.couplings(model, part())
    assert look["entropy"][0] == pytest.approx(1.0, abs=1e-4)
    assert look["entropy"][4] < look["entropy"][1] < 1.0


def test_curves_are_standardized_and_have_their_lengths():
    look = insight.couplings(network(), part(), passes=2, bins=5)
    assert len(look["entropy"]) == 2 and len(look["by_time"]) == len(look["energy_by_time"]) == 5
    assert len(look["clip"]["coupling"]) == len(look["clip"]["energy"]) == 12 and look["clip"]["target"] == 0
    assert -1 <= look["correlation"] <= 1
    json.dumps(look)


def test_a_network_without_capsules_is_refused():
    with pytest.raises(CapslibError, match="ATT has no couplings to look at: choose a capsule network"):
        insight.couplings(models.build("att", 6, 3), part())


def test_a_look_is_made_once_and_needs_the_weights_only_then(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    grid = study.grid(["synth_digits"], ["caps"], folds=1, epochs=1, max_train_clips=20)
    runs = study.run(grid, records="fresh", workers=1, keep_weights=False)
    (first,) = insight.looks(runs, insight.couplings, records="fresh", system="caps")  # trained again for its weights
    assert first["split"] == grid.runs[0].config.split and len(first["entropy"]) == 5
    monkeypatch.setattr(training, "train", None)
    (file,) = (tmp_path / "quick" / "weights").glob("*.safetensors")
    file.unlink()
    assert insight.looks(runs, insight.couplings, records="fresh", system="caps") == [first]
    assert insight.looks(runs, insight.couplings, records="fresh", system="lstm") == []
