"""Models: the papers' systems, one file per paper, built by name from a frozen dataclass.

Every model takes features (batch, frames, features) with their lengths (batch,) and gives scores (batch, classes); each
has its own scaling (``standardize``) and names the loss that it is trained with.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from capslib.errors import CapslibError, choose
from capslib.layers import Standardize


class Clips(Protocol):
    """What ``fit`` reads of a training part: a ``training.Part``, which models do not import."""

    clips: Sequence[Tensor]  # features of each, (frames, in_features)
    targets: Tensor  # class indices (clips,), or multi-hot (clips, classes)


class AudioModel(nn.Module):
    """What training needs of a model: ``embed``, and a last layer ``classify``, or else ``forward`` as a whole.

    A model that no gradient trains (a support vector machine, i-vectors) computes buffers in ``fit`` and is run with
    ``epochs=0``.

    Attributes:
        standardize: fitted on the training part's frames before training.
        loss: a key of ``training.LOSSES``: "cross_entropy" (scores are logits) or "margin" (they are capsule lengths).
    """

    loss = "cross_entropy"
    classify: nn.Linear

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.standardize = Standardize(in_features)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Scores: (B, T, in_features), (B,) -> (B, classes)."""
        return self.classify(self.embed(features, lengths))

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """What the last layer reads, also for transfer and plots: (B, T, in_features), (B,) -> (B, E)."""
        raise CapslibError(f"{type(self).__name__} gives no embedding: choose lstm, att, cnn or a capsule network")

    def objective(self, features: Tensor, lengths: Tensor, targets: Tensor, loss: nn.Module) -> Tensor:
        """What training minimizes, a scalar: ``loss`` of the scores, unless a model adds to it."""
        return loss(self(features, lengths), targets)

    def fit(self, part: Clips) -> None:
        """Before the first epoch, compute all buffers that the training part determines; here the scaling of frames."""
        self.standardize.fit(torch.cat(list(part.clips)))


class CapsuleModel(AudioModel):
    """A model that ends in one capsule per class: scores are their lengths, embeddings the capsules side by side."""

    loss = "margin"  # Sabour et al. 2017, equation 4

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, in_features), (B,) -> class capsules (B, classes, capsule_features)."""
        raise NotImplementedError

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.capsule_vectors(features, lengths).flatten(1)  # (B, classes, D) -> (B, classes * D)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.capsule_vectors(features, lengths).norm(dim=-1)  # (B, classes, D) -> (B, classes)


@dataclass(frozen=True)
class Entry:
    """A system that can be built by name: its class and the dataclass of its options."""

    model: type[AudioModel]
    config: type


@cache
def entries() -> Mapping[str, Entry]:
    """All systems by name: the ``MODELS`` of each file in this folder."""
    systems: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(__path__):
        systems |= getattr(importlib.import_module(f"{__name__}.{module.name}"), "MODELS", {})
    return systems


def _entry(name: str) -> Entry:
    return entries()[choose(name, entries(), "model")]


def build(name: str, in_features: int, num_classes: int, **options: object) -> AudioModel:
    """A fresh model for frames of ``in_features``; ``options`` are the fields of its dataclass that differ from the
    paper's. Raises CapslibError for an unknown name or option, with the nearest."""
    entry = _entry(name)
    for option in options:
        choose(option, [field.name for field in fields(entry.config)], f"option of model {name!r}")
    return entry.model(in_features, num_classes, entry.config(**options))


def complete(name: str, options: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """Options of a model that a configuration gives, completed by those values ``known`` from the run's clips that the
    model leaves open (None is the default)."""
    unset = {field.name for field in fields(_entry(name).config) if field.default is None}
    return {option: value for option, value in known.items() if option in unset} | dict(options)


def home(name: str) -> str:
    """The module whose ``MODELS`` has a model, for the code version of its records."""
    files = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    homes = {system: file for file in files for system in getattr(importlib.import_module(file), "MODELS", {})}
    return homes[choose(name, homes, "model")]


def words(name: str) -> set[str]:
    """What a model chooses by name where nobody says otherwise: its loss, and options that are text."""
    entry = _entry(name)
    return {entry.model.loss, *(field.default for field in fields(entry.config) if isinstance(field.default, str))}


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
