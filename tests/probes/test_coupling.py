"""Couplings of a trained capsule network: what must hold whatever it learnt, and that each network is measured once."""

from __future__ import annotations

import json

import pytest
import torch

from capslib import models, probes, study, training
from capslib.errors import CapslibError
from capslib.layers import squash
from capslib.probes import coupling


def part(lengths=(12, 30, 7)) -> training.Part:
    generator = torch.Generator().manual_seed(0)
    return training.Part([torch.randn(n, 6, generator=generator) for n in lengths], torch.tensor([0, 2, 1]))


def network(**options) -> models.AudioModel:
    torch.manual_seed(0)
    return models.build("caps", 6, 3, **options).eval()


def test_one_iteration_couples_evenly_and_more_less_so():
    model = network()
    with torch.no_grad():
        model.capsules.weight.mul_(20)  # as if trained: agreement that counts
    result = coupling.couplings(model, part())
    assert result["entropy"][0] == pytest.approx(1.0, abs=1e-4)
    assert result["entropy"][4] < result["entropy"][1] < 1.0
    assert result["logit"][0] == pytest.approx(0.0, abs=1e-5) and result["changed"][0] == 0


@torch.no_grad()
def test_logits_are_products_of_votes_and_capsules_about_their_mean():
    model, clips = network(), part((12,))
    model.capsules.weight.mul_(20)
    features, lengths, _ = clips.batch([0], torch.device("cpu"))
    steps, _ = model.trunk(model.standardize(features), lengths)
    votes = torch.einsum("if,jfd->ijd", steps[0], model.capsules.matrices)
    logits = (votes * squash(votes.mean(0) * len(votes) / 3)).sum(-1)
    largest = (logits - logits.mean(-1, keepdim=True)).abs().max()
    assert coupling.couplings(model, clips, num_iterations=2)["logit"][1] == pytest.approx(float(largest), abs=1e-3)


@torch.no_grad()
def test_predictions_that_more_iterations_change_are_counted():
    generator = torch.Generator().manual_seed(3)
    clips = [torch.randn(n, 6, generator=generator) for n in range(4, 44)]
    model, predicted = network(), []
    model.capsules.weight.mul_(20)
    for passes in (1, 3):
        model.capsules.routing.num_iterations = passes
        predicted.append([int(model(clip[None], torch.tensor([len(clip)])).argmax()) for clip in clips])
    share = sum(a != b for a, b in zip(*predicted, strict=True)) / len(clips)
    changed = coupling.couplings(
        model, training.Part(clips, torch.zeros(len(clips), dtype=torch.long)), num_iterations=3
    )
    assert changed["changed"][2] == pytest.approx(share, abs=1e-4) and share > 0


def test_a_rule_s_own_couplings_are_measured():
    clips = part()
    even = coupling.rule_entropy(network(num_iterations=1), clips)["entropy"]
    torch.manual_seed(0)
    attention = models.build("caps_routed", 6, 3, routing="inverted_attention").eval()
    uneven = coupling.rule_entropy(attention, clips)["entropy"]
    assert even == 1.0 and 0 < uneven < 1
    with pytest.raises(CapslibError, match="ATT has no couplings"):
        coupling.rule_entropy(models.build("att", 6, 3), clips)


def test_curves_are_standardized_and_have_their_lengths():
    result = coupling.couplings(network(), part(), num_iterations=2, bins=5)
    assert len(result["entropy"]) == 2 and len(result["by_time"]) == len(result["energy_by_time"]) == 5
    assert len(result["clip"]["coupling"]) == len(result["clip"]["energy"]) == 12 and result["clip"]["target"] == 0
    assert -1 <= result["correlation"] <= 1
    json.dumps(result)


def test_a_network_without_capsules_is_refused():
    with pytest.raises(CapslibError, match="ATT has no couplings to look at: choose a capsule network"):
        coupling.couplings(models.build("att", 6, 3), part())


def test_a_network_is_measured_once_and_needs_its_weights_only_then(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    grid = study.grid(["synth_digits"], ["caps"], folds=1, epochs=1, max_train_clips=20)
    runs = study.run(grid, records="fresh", workers=1, keep_weights=False)
    (first,) = probes.run(runs, coupling.couplings, records="fresh", system="caps")  # trained again for its weights
    assert first["split"] == grid.runs[0].config.split and len(first["entropy"]) == 5
    monkeypatch.setattr(training, "train", None)
    (file,) = (tmp_path / "quick" / "weights").glob("*.safetensors")
    file.unlink()
    assert probes.run(runs, coupling.couplings, records="fresh", system="caps") == [first]
    assert probes.run(runs, coupling.couplings, records="fresh", system="lstm") == []


def test_nothing_measured_is_said_and_not_drawn(tmp_path):
    coupling.draw([], "couplings", tmp_path)
    assert not (tmp_path / "figures").exists()
