"""P0's capsule network beside the vectors of a source model (section 6.2), joined to its capsules, not to its frames.

The paper says that the source's capsules are "additional input along with MFCCs": every frame carries them then, and any
model can read them. The other reading is here: they are further inputs of the class capsules, beside the time steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capslib.errors import CapslibError
from capslib.models import Entry
from capslib.models.p0_capsnet import CapsNet, CapsNetConfig


@dataclass(frozen=True)
class JoinedConfig(CapsNetConfig):
    """``source_features``: the last of every frame, one vector a clip, None for the run's source's; ``source_capsules``: that it
    consists of."""

    source_features: int | None = None
    source_capsules: int = 4


class JoinedCapsNet(CapsNet):
    """The trunk sees the MFCCs alone; each source capsule, in the trunk's size, votes like a time step."""

    def __init__(self, in_features: int, num_classes: int, config: JoinedConfig) -> None:
        own = in_features - (config.source_features or in_features)
        if own < 1 or config.source_features % config.source_capsules:
            raise CapslibError(
                f"{in_features} features with source_features={config.source_features} and "
                f"source_capsules={config.source_capsules}: give the run a source with that many"
            )
        super().__init__(own, num_classes, config)
        self.standardize = type(self.standardize)(in_features)
        self.own_features, self.source_capsules = own, config.source_capsules
        self.project = nn.Linear(config.source_features // config.source_capsules, self.trunk.out_features)

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, MFCCs and source), (B,) -> class capsules (B, classes, capsule_features)."""
        x = self.standardize(features)
        steps, mask = self.trunk(x[..., : self.own_features], lengths)
        votes = self.project(x[:, 0, self.own_features :].unflatten(-1, (self.source_capsules, -1)))
        there = mask.new_ones(len(mask), self.source_capsules)
        return self.capsules(torch.cat([steps, votes], dim=1), torch.cat([mask, there], dim=1))


MODELS = {"caps_joined": Entry(JoinedCapsNet, JoinedConfig)}
