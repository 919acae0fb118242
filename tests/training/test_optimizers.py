"""Optimizers by name, and models that none of them trains."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from capslib import corpora, models
from capslib.errors import CapslibError
from capslib.features import lengths_to_mask
from capslib.models import AudioModel, Clips, Entry
from capslib.training import OPTIMIZERS, load_parts, predict, restore, train

P3 = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-8}


def test_sgd_has_momentum_and_weight_decay(config):
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    decayed = dataclasses.replace(config, **P3 | {"weight_decay": 0.1})
    optimizer, expected, velocity = OPTIMIZERS["sgd"]([parameter], decayed), 1.0, 0.0
    for gradient in (2.0, -1.0, 0.5):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected -= 0.01 * velocity
        assert parameter.item() == pytest.approx(expected, rel=1e-12)


def test_a_run_with_sgd_learns_and_records_its_optimizer(config, trained):
    record = train(dataclasses.replace(config, model="cnn", **P3, epochs=8))
    assert record["test"]["accuracy"] > 0.9
    assert {name: record["config"][name] for name in P3} == P3
    assert "optimizer" not in trained[0]["config"]


def test_adam_has_neither_momentum_nor_weight_decay(config):
    for name in ("momentum", "weight_decay"):
        with pytest.raises(CapslibError, match="optimizer='adam' has neither momentum nor weight_decay"):
            train(dataclasses.replace(config, **{name: 0.1}))


class NearestMean(AudioModel):
    """The class whose mean is nearest to the clip's: nothing but what ``fit`` computes."""

    means: Tensor

    def __init__(self, in_features: int, num_classes: int, config: object) -> None:
        super().__init__(in_features)
        self.register_buffer("means", torch.zeros(num_classes, in_features))

    def fit(self, part: Clips) -> None:
        super().fit(part)
        clips = torch.stack([self.standardize(clip).mean(0) for clip in part.clips])
        self.means.copy_(torch.stack([clips[part.targets == k].mean(0) for k in range(len(self.means))]))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        mask = lengths_to_mask(lengths, features.shape[1]).unsqueeze(-1)
        return -torch.cdist((self.standardize(features) * mask).sum(1) / lengths[:, None], self.means)


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A model without options."""


@pytest.fixture
def fitted(config, monkeypatch):
    """A run of a model that ``fit`` determines."""
    known = dict(models.entries()) | {"nearest_mean": Entry(NearestMean, NoOptions)}
    monkeypatch.setattr(models, "entries", lambda: known)
    return dataclasses.replace(config, model="nearest_mean", epochs=0)


def test_a_model_that_fit_determines_is_recorded_and_restored(fitted, tmp_path):
    record = train(fitted, tmp_path / "weights.safetensors")
    assert record["chosen_epoch"] == 0 and record["epochs"] == [] and record["parameters"] == 0
    assert record["test"]["accuracy"] > 0.9
    model = restore(fitted, tmp_path / "weights.safetensors")
    parts = load_parts(corpora.load(fitted.corpus), fitted)
    assert predict(model, parts["test"], torch.device("cpu")).argmax(-1).tolist() == record["predictions"]
    train_part = parts["train"]
    first = [
        model.standardize(clip).mean(0) for clip, k in zip(train_part.clips, train_part.targets, strict=True) if k == 0
    ]
    torch.testing.assert_close(model.means[0], torch.stack(first).mean(0))


def test_a_model_without_parameters_has_no_epochs(fitted):
    with pytest.raises(CapslibError, match=r"nearest_mean on folder:tones.* has no parameters to train: give epochs=0"):
        train(dataclasses.replace(fitted, epochs=1))
