"""P0's regularization (section 5.4): a decoder of fully connected layers that reconstructs the MFCCs from the capsules.

The paper gives neither its sizes nor the weight of its error. As in Sabour et al. (2017, section 4.1) all capsules but the
true class' are set to zero before decoding. Only the coefficients themselves are reconstructed: their derivatives follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from capslib.errors import CapslibError
from capslib.features import lengths_to_mask
from capslib.models import Entry
from capslib.models.p0_capsnet import CapsNet, CapsNetConfig


@dataclass(frozen=True)
class DecoderConfig(CapsNetConfig):
    """``weight``: of the mean absolute error beside the margin loss; ``out_features``: leading features reconstructed (log
    energy and 19 coefficients of MFCC-60); ``num_frames``: that the decoder writes, None for the longest training clip's."""

    weight: float = 0.5
    out_features: int = 20
    hidden_features: int = 64
    decoder_features: tuple[int, ...] = (256, 512)
    num_frames: int | None = None


class DecodedCapsNet(CapsNet):
    """P0's capsule network with a decoder, which takes part in training alone: scores are the lengths of the capsules."""

    low: Tensor
    high: Tensor

    def __init__(self, in_features: int, num_classes: int, config: DecoderConfig) -> None:
        super().__init__(in_features, num_classes, config)
        if not config.num_frames or config.out_features > in_features:
            raise CapslibError(
                f"a decoder for num_frames={config.num_frames} and out_features={config.out_features} of {in_features}: "
                "give the frames of the longest clip, and no more features than there are"
            )
        self.weight, self.num_frames = config.weight, config.num_frames
        sizes = (num_classes * config.capsule_features, *config.decoder_features)
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.decoder = nn.Sequential(
            *layers, nn.Linear(sizes[-1], config.num_frames * config.out_features), nn.Sigmoid()
        )
        self.register_buffer("low", torch.zeros(config.out_features))
        self.register_buffer("high", torch.ones(config.out_features))

    def fit(self, frames: Tensor) -> None:
        """Mean and variance, and the smallest and largest value of each reconstructed feature, (frames, in_features)."""
        super().fit(frames)
        kept = frames[:, : len(self.low)]
        self.low.copy_(kept.amin(0))
        self.high.copy_(kept.amax(0))

    def scaled(self, features: Tensor) -> Tensor:
        """Reconstructed features between 0 and 1, by the training part's range: (B, T, in_features) -> (B, T, out_features)."""
        kept = features[..., : len(self.low)]
        return ((kept - self.low) / (self.high - self.low).clamp_min(1e-12)).clamp(0.0, 1.0)

    def reconstruct(self, capsules: Tensor, classes: Tensor) -> Tensor:
        """Scaled features from the capsule of one class a clip, or of several.

        Args:
            capsules: (B, classes, capsule_features).
            classes: index (B,), or multi-hot (B, classes).
        Returns:
            (B, num_frames, out_features), between 0 and 1.
        """
        kept = nn.functional.one_hot(classes, capsules.shape[1]) if classes.dim() == 1 else classes
        masked = capsules * kept.unsqueeze(-1).to(capsules.dtype)
        return self.decoder(masked.flatten(1)).unflatten(1, (self.num_frames, -1))

    def error(self, capsules: Tensor, features: Tensor, lengths: Tensor, classes: Tensor) -> Tensor:
        """Mean absolute error over the clips' own frames, (B,).

        Raises:
            CapslibError: if a clip has more frames than the decoder writes.
        """
        wanted = self.scaled(features[:, : int(lengths.max())])
        if wanted.shape[1] > self.num_frames:
            raise CapslibError(
                f"the decoder writes {self.num_frames} frames and a clip has {wanted.shape[1]}: set num_frames to the "
                "longest clip's"
            )
        found = self.reconstruct(capsules, classes)[:, : wanted.shape[1]]
        frames = (found - wanted).abs().mean(-1) * lengths_to_mask(lengths, wanted.shape[1])
        return frames.sum(-1) / lengths.clamp_min(1)

    def objective(self, features: Tensor, lengths: Tensor, targets: Tensor, loss: nn.Module) -> Tensor:
        """Margin loss and ``weight`` times the error of the reconstruction from the true class' capsule."""
        capsules = self.capsule_vectors(features, lengths)
        error = self.error(capsules, features, lengths, targets).mean()
        return loss(capsules.norm(dim=-1), targets) + self.weight * error


MODELS = {"caps_decoder": Entry(DecodedCapsNet, DecoderConfig)}
