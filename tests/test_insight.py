"""Looking into a trained capsule network: what must hold whatever it learnt, and that a look is made once."""

from __future__ import annotations

import json

import pytest
import torch

from capslib import insight, models, study, training
from capslib.errors import CapslibError
from capslib.layers import squash


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
    assert look["logit"][0] == pytest.approx(0.0, abs=1e-5) and look["changed"][0] == 0


@torch.no_grad()
def test_logits_are_products_of_votes_and_capsules_about_their_mean():
    model, clips = network(), part((12,))
    model.capsules.weight.mul_(20)
    features, lengths, _ = clips.batch([0], torch.device("cpu"))
    steps, _ = model.trunk(model.standardize(features), lengths)
    votes = torch.einsum("if,jfd->ijd", steps[0], model.capsules.matrices)
    logits = (votes * squash(votes.mean(0) * len(votes) / 3)).sum(-1)
    largest = (logits - logits.mean(-1, keepdim=True)).abs().max()
    assert insight.couplings(model, clips, passes=2)["logit"][1] == pytest.approx(float(largest), abs=1e-3)


@torch.no_grad()
def test_clips_that_more_passes_tell_otherwise_are_counted():
    generator = torch.Generator().manual_seed(3)
    clips = [torch.randn(n, 6, generator=generator) for n in range(4, 44)]
    model, told = network(), []
    model.capsules.weight.mul_(20)
    for passes in (1, 3):
        model.capsules.routing.num_iterations = passes
        told.append([int(model(clip[None], torch.tensor([len(clip)])).argmax()) for clip in clips])
    share = sum(a != b for a, b in zip(*told, strict=True)) / len(clips)
    found = insight.couplings(model, training.Part(clips, torch.zeros(len(clips), dtype=torch.long)), passes=3)
    assert found["changed"][2] == pytest.approx(share, abs=1e-4) and share > 0


def test_a_rule_s_own_couplings_are_looked_at():
    clips = part()
    even = insight.rule_entropy(network(num_iterations=1), clips)["entropy"]
    torch.manual_seed(0)
    attention = models.build("caps_routed", 6, 3, routing="inverted_attention").eval()
    found = insight.rule_entropy(attention, clips)["entropy"]
    assert even == 1.0 and 0 < found < 1
    with pytest.raises(CapslibError, match="ATT has no couplings"):
        insight.rule_entropy(models.build("att", 6, 3), clips)


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
