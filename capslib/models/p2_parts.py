"""Parts of P1's and P2's systems: CNN component (P2 table I), recurrent branch, capsule branch, and what they share.

A branch reads the component's map (B, C, T, Q) and the steps of each clip; ``embed`` gives its last hidden layer, and
the branch itself the scores. Weights start from Glorot's uniform range, biases from zero, those of an LSTM's forget
gates from one.

Letters: B clips, C channels, T steps of time, Q bins of frequency.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from capslib.errors import CapslibError
from capslib.features import lengths_to_mask
from capslib.layers import RecurrentCapsules, SequentialCapsules, TopDownAttention, emotion_vector, reverse
from capslib.models import AudioModel

CHUNK = 7 * 2**20  # numbers in the largest map of the trunk that a processor computes at once


@dataclass(frozen=True)
class TrunkConfig:
    """``pools``: (time, frequency) after the first pair, the third and the fourth convolution: P2's parameter counts
    fix their product at 4 x 4 (its table I says otherwise), and pooling early is cheap. ``dense_features``,
    ``dropout``: before the last layer."""

    pools: tuple[tuple[int, int], ...] = ((1, 2), (2, 2), (2, 1))
    dense_features: int = 64
    dropout: float = 0.5


@dataclass(frozen=True)
class GRUConfig(TrunkConfig):
    """``hidden_features``: of each direction."""

    hidden_features: int = 64


@dataclass(frozen=True)
class AttentionConfig(GRUConfig):
    """``normalized``: see ``TopDownAttention``."""

    normalized: bool = False


@dataclass(frozen=True)
class CapsuleConfig(TrunkConfig):
    """``window``, ``shift``: in frames of the spectrogram; the others as in ``SequentialCapsules``."""

    window: int = 40
    shift: int = 20
    num_iterations: int = 3
    num_convolutions: int = 8
    primary_features: int = 8
    window_capsules: int = 8
    window_features: int = 8
    capsule_features: int = 16
    pool: int = 8
    pool_before: bool = True
    squashed: bool = True
    init_gain: float = 1.0


def glorot(module: nn.Module) -> None:
    """Start every convolution and linear layer within ``module`` from Glorot's uniform range, with biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def shrunk(size: int | Tensor, pool: int) -> int | Tensor:
    """Size of an axis pooled by ``pool``, an incomplete rest included."""
    return (size + pool - 1) // pool


def pooled(x: Tensor, lengths: Tensor, pool: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Max pooling, then ReLU, as if nothing followed a clip's end: (B, C, T, Q), (B,) -> the same, smaller.

    Overwrites ``x``, a convolution's output. The mask is a product, because the gradient of ``masked_fill`` is not
    channels last.
    """
    mask = lengths_to_mask(lengths, x.shape[2])[:, None, :, None].to(x.dtype)  # (B, T) -> (B, 1, T, 1)
    # Zeros past the end are at most what the ReLU makes of a clip's own values, so they never win. Where time is pooled
    # the mask must come first: a window may reach across the end. Elsewhere it is faster on the smaller map.
    if pool[0] > 1:
        x = x.mul_(mask)
    x = functional.max_pool2d(x, tuple(pool), ceil_mode=True) if max(pool) > 1 else x
    if pool[0] == 1:
        x = x.mul_(mask)
    return x.relu_(), shrunk(lengths, pool[0])


class System(AudioModel):
    """A system on spectrograms (B, T, bins)."""

    def prepared(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Scaled features with zeros past a length, (B, T, bins); raises CapslibError if the number of bins is not the
        model's, there is no frame, or one is not finite."""
        bins = len(self.standardize.mean)  # that the model was built for
        if features.dim() != 3 or features.shape[-1] != bins or not features.shape[1]:
            raise CapslibError(
                f"features {tuple(features.shape)} do not fit a {type(self).__name__} for {bins} bins: give (clips, "
                f"frames, {bins}) with a frame at least, or build the model for the bins there are"
            )
        mask = lengths_to_mask(lengths, features.shape[1])
        x = self.standardize(features).masked_fill(~mask.unsqueeze(-1), 0.0)
        # One sum tells whether anything is wrong; which clips it is takes longer.
        if not torch.compiler.is_compiling() and not x.sum().isfinite():
            rows = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            if rows:
                clips = f"features of clips {rows} of the batch have frames that are not finite"
                raise CapslibError(f"{clips}: mend or leave out these recordings")
        return x


class ConvolutionalTrunk(nn.Module):
    """P2's CNN component for spectrograms of ``in_bins``: kernels of 2 x 8 and 8 x 2 side by side, eight of each, then
    two convolutions of 5 x 5, each of the three pooled; raises CapslibError unless ``pools`` are three pairs."""

    def __init__(self, in_bins: int, pools: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if len(pools) != 3 or any(len(pool) != 2 or min(pool) < 1 for pool in pools):
            raise CapslibError(f"pools={pools}: give three pairs (time, frequency) of at least 1")
        self.frames_a_step, bins_a_step = (math.prod(sizes) for sizes in zip(*pools, strict=True))
        self.pools, self.channels, self.bins = pools, 16, shrunk(in_bins, bins_a_step)
        # (time, frequency): wide kernels see the spectrum of a moment, tall ones the course of a few bins.
        self.wide, self.tall = nn.Conv2d(1, 8, (2, 8)), nn.Conv2d(1, 8, (8, 2))
        self.third, self.fourth = nn.Conv2d(16, 16, 5, padding=2), nn.Conv2d(16, 16, 5, padding=2)
        glorot(self)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, frames, bins), zero past a length, (B,) -> map (B, C, T, Q), zero past a length, and steps (B,)."""
        # A few clips at a time: a processor's allocator reuses tensors of some megabytes, and maps larger ones anew.
        size = len(x) if x.device.type != "cpu" else max(1, CHUNK // max(1, self.channels * x.shape[1] * x.shape[2]))
        chunks = [self.maps(clips, n) for clips, n in zip(x.split(size), lengths.split(size), strict=True)]
        return torch.cat([maps for maps, _ in chunks]), torch.cat([steps for _, steps in chunks])

    def maps(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` of a few clips."""
        # The pair as one convolution of 8 x 8, kernels filled up with zeros: half the time of two and their joining.
        kernels = [functional.pad(self.wide.weight, (0, 0, 3, 3)), functional.pad(self.tall.weight, (3, 3, 0, 0))]
        bias = torch.cat([self.wide.bias, self.tall.bias])
        # (B, frames, bins) -> (B, 1, frames + 7, bins + 7), "same" padding, channels last in memory
        x = functional.pad(x, (3, 4, 3, 4)).unsqueeze(-1).movedim(-1, 1)
        x, lengths = pooled(functional.conv2d(x, torch.cat(kernels), bias), lengths, self.pools[0])
        # (B, C, T, Q), smaller after each pooling
        for convolution, pool in ((self.third, self.pools[1]), (self.fourth, self.pools[2])):
            x, lengths = pooled(convolution(x), lengths, pool)
        return x, lengths


class BiRecurrent(nn.Module):
    """Bidirectional "gru" or "lstm" with one bias per gate, whose valid steps do not depend on padding.

    P2's parameter counts allow one bias where PyTorch's layers train two: the second is fixed at zero here. An LSTM's
    forget gates start with a bias of one, as usual. ``hidden_features`` are those of each direction.
    """

    def __init__(self, kind: str, in_features: int, hidden_features: int) -> None:
        super().__init__()
        self.kind, self.hidden_features, self.out_features = kind, hidden_features, 2 * hidden_features
        gates = {"gru": 3, "lstm": 4}[kind]
        for direction in ("ahead", "back"):
            inputs = torch.empty(gates * hidden_features, in_features)
            states = torch.empty(gates * hidden_features, hidden_features)
            # Gate by gate: Glorot's range for the stacked matrix would be smaller.
            for gate in (*inputs.chunk(gates), *states.chunk(gates)):
                nn.init.xavier_uniform_(gate)
            bias = torch.zeros(gates * hidden_features)
            if kind == "lstm":  # PyTorch's order: input, forget, cell, output
                bias.chunk(gates)[1].fill_(1.0)
            tensors = {"inputs": inputs, "states": states, "bias": bias}
            setattr(self, direction, nn.ParameterDict({name: nn.Parameter(x) for name, x in tensors.items()}))

    def run(self, x: Tensor, weights: nn.ParameterDict) -> Tensor:
        """One direction: (B, T, F) -> (B, T, hidden_features)."""
        bias = weights["bias"]
        x = x.to(bias.dtype)  # under autocast too: the recurrence is computed in full precision
        start = x.new_zeros(1, len(x), self.hidden_features)  # (layers, B, hidden_features)
        tensors = [weights["inputs"], weights["states"], bias, torch.zeros_like(bias)]
        # bias, one layer, no dropout, training, one direction, batch first
        settings = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        with torch.autocast(x.device.type, enabled=False):
            if self.kind == "gru":
                return torch.gru(x, start, tensors, *settings)[0]
            return torch.lstm(x, (start, start), tensors, *settings)[0]

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> steps (B, T, 2 * hidden_features), undefined past a length, and the summary: the last
        forward and the first backward state, (B, 2 * hidden_features)."""
        ahead = self.run(x, self.ahead)
        back = reverse(self.run(reverse(x, lengths), self.back), lengths)
        # Each direction where it has read the whole clip: forward at its own last step, backward at the first.
        last = ahead[torch.arange(len(x), device=x.device), (lengths - 1).clamp_min(0)]
        return torch.cat([ahead, back], dim=-1), torch.cat([last, back[:, 0]], dim=-1)


def frames_of(maps: Tensor) -> Tensor:
    """All channels and bins of each step side by side: (B, C, T, Q) -> (B, T, C * Q)."""
    return maps.transpose(1, 2).flatten(2)  # (B, C, T, Q) -> (B, T, C, Q) -> (B, T, C * Q)


class Branch(nn.Module):
    """From a map to scores: its ``summary``, a dense layer with dropout, and the last layer."""

    def __init__(self, in_features: int, num_classes: int, config: TrunkConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.dense_features)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.dense_features, num_classes)
        glorot(self)

    def summary(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> (B, in_features)."""
        raise NotImplementedError

    def embed(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> (B, dense_features)."""
        return self.dropout(self.dense(self.summary(maps, lengths)).relu())

    def forward(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> logits (B, classes)."""
        return self.classify(self.embed(maps, lengths))


class GRUBranch(Branch):
    """A bidirectional GRU; its last forward and first backward state; two dense layers (P2 section V-B)."""

    def __init__(self, trunk: ConvolutionalTrunk, num_classes: int, config: GRUConfig) -> None:
        super().__init__(2 * config.hidden_features, num_classes, config)
        self.recurrent = BiRecurrent("gru", trunk.channels * trunk.bins, config.hidden_features)

    def summary(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> (B, 2 * hidden_features)."""
        return self.recurrent(frames_of(maps), lengths)[1]


class AttentionBranch(nn.Module):
    """The GRU's steps, the first dense layer at each of them, and attention in place of the last (P2 section V-B)."""

    def __init__(self, trunk: ConvolutionalTrunk, num_classes: int, config: AttentionConfig) -> None:
        super().__init__()
        self.recurrent = BiRecurrent("gru", trunk.channels * trunk.bins, config.hidden_features)
        self.dense = nn.Linear(self.recurrent.out_features, config.dense_features)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = TopDownAttention(config.dense_features, num_classes, normalized=config.normalized)
        glorot(self)

    def embed(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> the attended steps, (B, dense_features)."""
        steps, _ = self.recurrent(frames_of(maps), lengths)
        # Before the last layer as in the other branches: it is the attention here.
        return self.attention.attended(self.dropout(self.dense(steps).relu()), lengths_to_mask(lengths, steps.shape[1]))

    def forward(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> logits (B, classes)."""
        return self.attention.top_down(self.embed(maps, lengths))


class CapsuleBranch(Branch):
    """Sequential capsules, one per class for the clip; these and their lengths; two dense layers (P2 section V-C)."""

    layer = SequentialCapsules

    def __init__(self, trunk: ConvolutionalTrunk, num_classes: int, config: CapsuleConfig) -> None:
        super().__init__(num_classes * (config.capsule_features + 1), num_classes, config)  # + 1: P2 equation 8
        sizes = {name: getattr(config, name) for name in CapsuleConfig.__annotations__}  # its own fields
        step = trunk.frames_a_step
        for name in ("window", "shift"):  # given in frames of the spectrogram, and cut from the pooled map
            if sizes[name] < 1 or sizes[name] % step:
                given = f"{name}={sizes[name]} frames"
                raise CapslibError(f"{given}: give a multiple of {step}, the frames that are pooled to one step")
            sizes[name] //= step
        sizes |= {"out_capsules": num_classes, "out_features": sizes.pop("capsule_features")}
        self.capsules = self.layer(trunk.channels, trunk.bins, **sizes)

    def summary(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> (B, classes * (capsule_features + 1))."""
        return emotion_vector(self.capsules(maps, lengths))


class RecurrentCapsuleBranch(CapsuleBranch):
    """With the recurrent connection between windows (P2 equation 9)."""

    layer = RecurrentCapsules
