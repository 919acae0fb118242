"""Perturbed clips, mixtures and reconstructions: what must hold by construction, whatever a network learnt."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from capslib import models, probes
from capslib.errors import CapslibError
from capslib.probes import mixed, perturbed, reconstructed
from capslib.training import Part

LEVELS = (-2.0, -1.0, 0.0, 1.0, 2.0)


class Along(models.AudioModel):
    """Its vector is a random place of the clip, plus the level along one direction."""

    def __init__(self, size: int) -> None:
        super().__init__(1)
        self.size = size

    def embed(self, features, lengths):
        axis = torch.zeros(self.size)
        axis[0] = 1.0
        own = torch.stack(
            [torch.randn(self.size, generator=torch.Generator().manual_seed(int(c))) for c in features[:, 0, 0]]
        )
        return 0.2 * own + features[:, 0, 1:2] * axis


def clips(first: int, level: float, flat: bool = False) -> list[torch.Tensor]:
    return [torch.tensor([[float(first + n), 0.0 if flat else level]]) for n in range(30)]


def part(first: int, flat: bool = False) -> Part:
    """Thirty clips of two classes at five levels, that the network sees, or with ``flat`` does not."""
    variants = tuple(clips(first, level, flat) for level in LEVELS)
    return Part(variants[2], torch.arange(30) % 2, variants, LEVELS)


def test_a_level_along_one_direction_is_one_component_and_is_read_back():
    result = perturbed.components(Along(8), part(0), part(100))
    assert result["within"][0] == pytest.approx(1.0, abs=1e-3)
    assert 0.8 < result["level_share"] < 1 and result["pooled"][0] > 0.8
    assert result["probe"] > 0.95 and result["side"] == 1.0 and result["features"] == 8
    assert np.array(result["scatter"]["points"]).shape == (5, 15, 2)
    json.dumps(result)


def test_a_level_that_leaves_no_trace_is_not_read_back():
    result = perturbed.components(Along(8), part(0, flat=True), part(100, flat=True))
    assert result["level_share"] == pytest.approx(0.0, abs=1e-9) and result["probe"] == 0.0
    assert result["side"] == pytest.approx(0.5)


def test_of_a_capsule_network_the_true_class_is_measured():
    torch.manual_seed(0)
    model = models.build("caps", 2, 2, capsule_features=6).eval()
    assert perturbed.components(model, part(0), part(100))["features"] == 6


def test_clips_that_were_not_perturbed_are_refused():
    plain = Part(clips(0, 0.0), torch.arange(30) % 2)
    with pytest.raises(CapslibError, match="these clips were not perturbed: give the runs `perturb`"):
        perturbed.components(Along(4), plain, plain)


def decoded(num_frames: int = 9) -> models.AudioModel:
    torch.manual_seed(0)
    model = models.build("caps_decoder", 6, 3, num_frames=num_frames, out_features=2).eval()
    model.fit(Part([torch.randn(100, 6)], torch.zeros(1)))
    return model


def test_reconstructions_are_held_against_the_median_clip():
    train = Part([torch.randn(n, 6) for n in (9, 5, 7)], torch.tensor([0, 1, 2]))
    result = reconstructed.reconstructions(decoded(), train, train)
    assert 0 < result["error"] < 1 and result["left_out"] == 0 and set(result["shown"]) == {"0", "1", "2"}
    alone = Part(train.clips[:1], train.targets[:1])
    assert reconstructed.reconstructions(decoded(), alone, alone)["reference"] == pytest.approx(0.0, abs=1e-6)
    json.dumps(result)


def test_and_against_the_median_clip_of_the_predicted_class():
    model, train = decoded(), Part([torch.full((9, 6), float(k)) for k in (-1, 0, 1)], torch.tensor([0, 1, 2]))
    test = Part([torch.randn(9, 6) for _ in range(4)], torch.zeros(4, dtype=torch.long))
    predicted = [int(model(clip[None], torch.tensor([9])).argmax()) for clip in test.clips]
    wanted = [
        (model.scaled(train.clips[k]) - model.scaled(clip)).abs().mean()
        for k, clip in zip(predicted, test.clips, strict=True)
    ]
    results = reconstructed.reconstructions(model, train, test)
    assert results["class_reference"] == pytest.approx(float(torch.stack(wanted).mean()), abs=2e-5)
    only = Part(train.clips[:1], torch.tensor([0 if predicted[0] else 1]))  # the predicted class has no training clip
    alone = reconstructed.reconstructions(model, only, Part(test.clips[:1], test.targets[:1]))
    assert alone["class_reference"] == alone["reference"]


def test_clips_longer_than_the_decoder_writes_are_counted():
    train = Part([torch.randn(n, 6) for n in (9, 5, 12)], torch.tensor([0, 1, 2]))
    assert reconstructed.reconstructions(decoded(9), Part(train.clips[:2], train.targets[:2]), train)["left_out"] == 1
    with pytest.raises(CapslibError, match="CapsNet has no decoder: choose caps_decoder"):
        reconstructed.reconstructions(models.build("caps", 6, 3), train, train)


@pytest.mark.parametrize("system, bounds", [("caps", (0.0, 1.0)), ("att", (0.0, 1.0))])
def test_scores_over_the_ratio_are_lengths_or_probabilities(system, bounds):
    torch.manual_seed(0)
    model = models.build(system, 6, 2).eval()
    variants = tuple([torch.randn(8, 6) for _ in range(4)] for _ in range(3))
    result = mixed.over_snr(model, Part(variants[0], torch.ones(4, 2), variants, (0.0, 5.0, 10.0)))
    assert np.array(result["scores"]).shape == np.array(result["detected"]).shape == (2, 3) and result["snr"] == [
        0,
        5,
        10,
    ]
    assert bounds[0] <= np.min(result["scores"]) and np.max(result["scores"]) <= bounds[1]
    with pytest.raises(CapslibError, match="give those of mixed_again"):
        mixed.over_snr(model, Part(variants[0], torch.ones(4, 2)))


def result_of(system: str, split: str, **values) -> dict:
    scatter = {"class": 0, "points": np.zeros((5, 4, 2)).tolist()}
    numbers = {"pooled": [0.5, 0.25, 0.1], "within": [0.6, 0.3], "level_share": 0.1, "probe": 0.2, "side": 0.6}
    head = {"system": system, "corpus": "fsdd:digit", "split": split, "seed": 0, "features": 16, "levels": list(LEVELS)}
    return head | numbers | {"scatter": scatter} | values


def test_perturbed_clips_have_a_row_a_system_with_an_interval_over_folds():
    results = [
        result_of("capsules, gain", "a"),
        result_of("capsules, gain", "b", pooled=[0.7, 0.25]),
        result_of("LSTM, gain", "a"),
    ]
    table = probes.table(results, perturbed.COLUMNS, perturbed.FACTS).set_index("system")
    assert table.loc["capsules, gain", "two components, all"].startswith("0.850 [")
    assert table.loc["LSTM, gain", "two components, all"] == "0.750" and table.loc["LSTM, gain", "networks"] == 1
    assert table.loc["LSTM, gain", "numbers"] == 16 and probes.table([], perturbed.COLUMNS).empty


def test_figures_of_probes_write_what_they_show(tmp_path):
    results = [result_of("capsules, gain", "a"), result_of("untrained, gain", "a")]
    perturbed.draw(results, ["capsules", "untrained", "LSTM"], "c", tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "c.csv")
    assert set(data["network"]) == {"capsules", "untrained"} and len(data) == 2 * 5 * 4
    snr = {
        "corpus": "m",
        "system": "CAPS",
        "snr": [0, 5],
        "scores": [[0.1, 0.2], [0.8, 0.9]],
        "detected": [[0, 0], [1, 1]],
    }
    mixed.draw([snr, snr], ["noise", "speech"], "s", tmp_path)
    assert pd.read_csv(tmp_path / "figures" / "s.csv")["score"].tolist() == [0.1, 0.2, 0.8, 0.9]
    pair = {"input": [[0.0, 1.0]], "reconstruction": [[0.5, 0.5]], "predicted": 1}
    result = {"corpus": "c:x", "split": "fold1", "system": "CAPS", "shown": {"0": pair}}
    reconstructed.draw([result], ["a", "b"], "r", tmp_path)
    assert pd.read_csv(tmp_path / "figures" / "r.csv")["corpus"].tolist() == ["c:x"] * 4
    for draw, more in (
        (perturbed.draw, (["capsules"],)),
        (mixed.draw, (["a"],)),
        (reconstructed.draw, (["a"],)),
    ):
        draw([], *more, "none", tmp_path)
    assert not (tmp_path / "figures" / "none.png").exists()
