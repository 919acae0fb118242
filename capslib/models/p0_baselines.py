"""P0's baselines (section 4): a deep convolutional network, a bidirectional LSTM, and the same with attention.

The paper gives no sizes. Ours are comparable: 162,000 to 166,000 parameters; the capsule network has 168,000 to 184,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capslib.features import lengths_to_mask
from capslib.layers import AttentionPooling, BiLSTM, MaskedBatchNorm, masked_mean
from capslib.models import AudioModel, Entry


@dataclass(frozen=True)
class CNNConfig:
    """Four 1-D convolutions over time; the coefficients of a frame are the channels of the first."""

    channels: tuple[int, ...] = (96, 96, 128, 128)
    kernel_sizes: tuple[int, ...] = (5, 5, 3, 3)
    pools: tuple[int, ...] = (1, 2, 1, 2)
    dropout: float = 0.3


@dataclass(frozen=True)
class RecurrentConfig:
    """Batch normalization, two bidirectional LSTMs and dropout, before whatever reads the steps."""

    hidden_features: int = 64
    dropout: float = 0.3


class CNN(AudioModel):
    """Convolution, batch normalization, ReLU and max pooling, four times; mean over time; a linear layer."""

    def __init__(self, in_features: int, num_classes: int, config: CNNConfig) -> None:
        super().__init__(in_features)
        sizes = (in_features, *config.channels)
        self.pools = config.pools
        self.convolutions = nn.ModuleList(
            nn.Conv1d(i, o, k, padding=k // 2, bias=False)
            for i, o, k in zip(sizes[:-1], sizes[1:], config.kernel_sizes, strict=True)
        )
        self.input_norm = MaskedBatchNorm(in_features)
        self.norms = nn.ModuleList(MaskedBatchNorm(o) for o in config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(sizes[-1], num_classes)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, channels); after every layer the padding is zero again, as at a clip's own end."""
        mask = lengths_to_mask(lengths, features.shape[1])
        x = self.input_norm(self.standardize(features), mask)
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            x = norm(convolution(x.transpose(1, 2)).transpose(1, 2), mask).relu()
            x = x * mask.unsqueeze(-1)
            if pool > 1:
                x = nn.functional.max_pool1d(x.transpose(1, 2), pool, ceil_mode=True).transpose(1, 2)
                lengths = torch.div(lengths + pool - 1, pool, rounding_mode="floor")
                mask = lengths_to_mask(lengths, x.shape[1])
        return masked_mean(x, mask)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, classes)."""
        return self.classify(self.dropout(self.embed(features, lengths)))


class RecurrentTrunk(nn.Module):
    """P0 section 4 up to the capsules: batch normalization, two bidirectional LSTMs, dropout."""

    def __init__(self, in_features: int, config: RecurrentConfig) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(in_features)
        self.first = BiLSTM(in_features, config.hidden_features)
        self.second = BiLSTM(self.first.out_features, config.hidden_features)
        self.dropout = nn.Dropout(config.dropout)
        self.out_features = self.second.out_features

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> steps (B, T, 2 * hidden_features), zero past a length, and their mask (B, T)."""
        mask = lengths_to_mask(lengths, x.shape[1])
        x = self.second(self.first(self.norm(x, mask), lengths), lengths)
        return self.dropout(x) * mask.unsqueeze(-1), mask


class LSTM(AudioModel):
    """The trunk, then its last forward and its first backward state, and a linear layer."""

    def __init__(self, in_features: int, num_classes: int, config: RecurrentConfig) -> None:
        super().__init__(in_features)
        self.trunk = RecurrentTrunk(in_features, config)
        self.classify = nn.Linear(self.trunk.out_features, num_classes)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> those two states side by side, (B, 2 * hidden_features)."""
        steps, _ = self.trunk(self.standardize(features), lengths)
        half = steps.shape[-1] // 2
        last = steps[torch.arange(len(steps), device=steps.device), (lengths - 1).clamp_min(0), :half]
        return torch.cat([last, steps[:, 0, half:]], dim=-1)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, classes)."""
        return self.classify(self.embed(features, lengths))


class ATT(AudioModel):
    """The trunk, attention over its steps, and a linear layer."""

    def __init__(self, in_features: int, num_classes: int, config: RecurrentConfig) -> None:
        super().__init__(in_features)
        self.trunk = RecurrentTrunk(in_features, config)
        self.pool = AttentionPooling(self.trunk.out_features)
        self.classify = nn.Linear(self.trunk.out_features, num_classes)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> the attended mean of the steps, (B, 2 * hidden_features)."""
        pooled, _ = self.pool(*self.trunk(self.standardize(features), lengths))
        return pooled

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, classes)."""
        return self.classify(self.embed(features, lengths))


MODELS = {
    "cnn": Entry(CNN, CNNConfig),
    "lstm": Entry(LSTM, RecurrentConfig),
    "att": Entry(ATT, RecurrentConfig),
}
