"""P0's capsule network (section 4, figure 1): the recurrent trunk, then one capsule a class over its time steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from capslib.layers import CapsuleLayer
from capslib.models import AudioModel, Entry
from capslib.models.p0_baselines import RecurrentConfig, RecurrentTrunk


@dataclass(frozen=True)
class CapsNetConfig(RecurrentConfig):
    """P0's: capsules of 16. It never says how many routing passes its CAPS column uses; 3 is Sabour et al.'s."""

    capsule_features: int = 16
    num_iterations: int = 3


class CapsNet(AudioModel):
    """Scores are the lengths of the class capsules; one matrix a class is shared by all time steps."""

    loss = "margin"

    def __init__(self, in_features: int, num_classes: int, config: CapsNetConfig) -> None:
        super().__init__(in_features)
        self.trunk = RecurrentTrunk(in_features, config)
        self.capsules = CapsuleLayer(
            self.trunk.out_features, num_classes, config.capsule_features, num_iterations=config.num_iterations
        )

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> class capsules (B, classes, capsule_features)."""
        return self.capsules(*self.trunk(self.standardize(features), lengths))

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> class capsules side by side, (B, classes * capsule_features)."""
        return self.capsule_vectors(features, lengths).flatten(1)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> lengths of the class capsules (B, classes)."""
        return self.capsule_vectors(features, lengths).norm(dim=-1)


MODELS = {"caps": Entry(CapsNet, CapsNetConfig)}
