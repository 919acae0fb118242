"""P1's and P2's systems for speech emotion, with P2's parameter counts to the last digit (its table II).

Where those counts and the text disagree the counts decide, as the options say. Every system is trained with
cross-entropy but CNN_Cap, which has no layer behind its class capsules: its loss is the margin loss.

Letters: B clips, C channels, T steps of time, Q bins of frequency of a map.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from capslib.errors import CapslibError
from capslib.features import lengths_to_mask
from capslib.layers import CapsuleLayer, PrimaryCapsules, emotion_vector, squash
from capslib.models import CapsuleModel, Entry
from capslib.models.p2_parts import (
    AttentionBranch,
    AttentionConfig,
    BiRecurrent,
    CapsuleBranch,
    CapsuleConfig,
    ConvolutionalTrunk,
    GRUBranch,
    GRUConfig,
    RecurrentCapsuleBranch,
    System,
    TrunkConfig,
    frames_of,
    glorot,
    pooled,
    shrunk,
)


class TrunkSystem(System):
    """The CNN component and one branch, which ends in the last layer."""

    branch: type[nn.Module]

    def __init__(self, in_features: int, num_classes: int, config: TrunkConfig) -> None:
        super().__init__(in_features)
        self.trunk = ConvolutionalTrunk(in_features, config.pools)
        # Second, so that all systems of one seed start from the same CNN component.
        self.head = self.branch(self.trunk, num_classes, config)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> (B, dense_features)."""
        return self.head.embed(*self.trunk(self.prepared(features, lengths), lengths))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> logits (B, classes)."""
        return self.head(*self.trunk(self.prepared(features, lengths), lengths))


class CNNGRU(TrunkSystem):  # P2 section V-B
    branch = GRUBranch


class CNNGRUAtt(TrunkSystem):  # P2 section V-B
    branch = AttentionBranch


class CNNSeqCap(TrunkSystem):  # P2 section V-C
    branch = CapsuleBranch


class CNNRecCap(TrunkSystem):  # P2 section V-C
    branch = RecurrentCapsuleBranch


@dataclass(frozen=True)
class HybridConfig(CapsuleConfig):
    """``hidden_features``: of the GRU; ``weight``: of the capsule branch's probabilities, P2's lambda."""

    hidden_features: int = 64
    weight: float = 0.6


class CNNGRUSeqCap(System):
    """CNN_GRU-SeqCap: a capsule branch and a GRU branch on one CNN component (P2 section V-C).

    Training adds up both losses. Scores are the logarithms of the probabilities, averaged with P2's lambda, ``weight``,
    which must lie between 0 and 1 (CapslibError).
    """

    branch = CapsuleBranch

    def __init__(self, in_features: int, num_classes: int, config: HybridConfig) -> None:
        super().__init__(in_features)
        if not 0 < config.weight < 1:
            raise CapslibError(f"weight={config.weight}: give the capsule branch's share, between 0 and 1")
        self.weight = config.weight
        self.trunk = ConvolutionalTrunk(in_features, config.pools)
        self.capsule_head = self.branch(self.trunk, num_classes, config)
        self.gru_head = GRUBranch(self.trunk, num_classes, config)

    def branches(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the capsule branch and of the GRU branch: (B, T, bins), (B,) -> (B, classes) twice."""
        maps = self.trunk(self.prepared(features, lengths), lengths)
        return self.capsule_head(*maps), self.gru_head(*maps)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> (B, 2 * dense_features), capsule branch first."""
        maps = self.trunk(self.prepared(features, lengths), lengths)
        return torch.cat([self.capsule_head.embed(*maps), self.gru_head.embed(*maps)], dim=-1)

    def objective(self, features: Tensor, lengths: Tensor, targets: Tensor, loss: nn.Module) -> Tensor:
        """The sum of both branches' losses, unweighted."""
        capsules, gru = self.branches(features, lengths)
        return loss(capsules, targets) + loss(gru, targets)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> log probabilities (B, classes)."""
        capsules, gru = (logits.float().log_softmax(-1) for logits in self.branches(features, lengths))
        # log(weight * p_capsules + (1 - weight) * p_gru), without leaving the logarithms
        return torch.logaddexp(capsules + math.log(self.weight), gru + math.log1p(-self.weight))


class CNNGRURecCap(CNNGRUSeqCap):
    branch = RecurrentCapsuleBranch


@dataclass(frozen=True)
class CNNCapConfig:
    """``num_frames``: frames whose positions have weights; longer clips are cut there. ``init_gain``: factor on
    Glorot's range, because a sum over so many votes would start saturated; the others as in ``CapsuleConfig``."""

    pools: tuple[tuple[int, int], ...] = TrunkConfig.pools
    num_frames: int = 1000
    num_convolutions: int = 8
    primary_features: int = 8
    capsule_features: int = 16
    squashed: bool = True
    num_iterations: int = 3
    init_gain: float = 0.1


@dataclass(frozen=True)
class LSTMCapConfig:
    """``num_frames``: frames that have weights; longer clips are cut there. ``filters``: of each convolution."""

    hidden_features: int = 128
    num_convolutions: int = 4
    filters: int = 32
    kernel_size: int = 5
    num_frames: int = 1000
    capsule_features: int = 32
    squashed: bool = True
    num_iterations: int = 3
    dense_features: int = 64
    dropout: float = 0.5
    init_gain: float = 1.0


class PositionCapsules(CapsuleLayer):
    """Class capsules over ``positions`` capsules with unshared weights, of which a shorter clip uses the first."""

    def __init__(
        self, positions: int, in_features: int, num_classes: int, config: CNNCapConfig | LSTMCapConfig
    ) -> None:
        options = {"num_iterations": config.num_iterations, "init_gain": config.init_gain, "bias": True}
        super().__init__(in_features, num_classes, config.capsule_features, in_capsules=positions, **options)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """Capsules (B, T, I, F) of the steps with their mask (B, T) -> (B, classes, capsule_features)."""
        mask = mask.unsqueeze(-1).expand(u.shape[:3]).flatten(1)  # (B, T) -> (B, T * I)
        u = u.flatten(1, 2)  # (B, T, I, F) -> (B, T * I, F)
        return self.routing(u, self.matrices[: u.shape[1]], mask=mask, bias=self.bias)


class CNNCap(CapsuleModel, System):
    """CNN_Cap: capsules without windows, with unshared weights for every position of the map (P2 section V-D).

    Its 131,110,832 parameters are for clips of up to 1,000 frames (P2's text says 200). A shorter clip uses the first
    weights; of a longer one the first ``num_frames`` frames are used. Trained on shorter segments, the weights behind
    them stay as they started, and whole clips are then classified through them: P2's own argument against this system.
    """

    def __init__(self, in_features: int, num_classes: int, config: CNNCapConfig) -> None:
        super().__init__(in_features)
        self.num_frames = config.num_frames
        self.trunk = ConvolutionalTrunk(in_features, config.pools)
        self.primary = PrimaryCapsules(
            self.trunk.channels, config.num_convolutions, config.primary_features, squashed=config.squashed
        )
        # steps x bins of the longest map x capsules of each position
        positions = shrunk(config.num_frames, self.trunk.frames_a_step) * self.trunk.bins * config.num_convolutions
        self.capsules = PositionCapsules(positions, config.primary_features, num_classes, config)

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> class capsules (B, classes, capsule_features)."""
        features = self.prepared(features, lengths)[:, : self.num_frames]
        maps, steps = self.trunk(features, lengths.clamp_max(self.num_frames))  # (B, frames, bins) -> (B, C, T, Q)
        return self.capsules(self.primary(maps), lengths_to_mask(steps, maps.shape[2]))


class LSTMCap(System):
    """LSTM_Cap: two bidirectional LSTMs, one capsule per frame from four convolutions over time, class capsules.

    P2 section V-B. Every frame has its own weights, up to 1,000: for shorter and longer clips see ``CNNCap``. Its dense
    layers are those of CNN_SeqCap; P2's count has them, its text does not.
    """

    def __init__(self, in_features: int, num_classes: int, config: LSTMCapConfig) -> None:
        super().__init__(in_features)
        self.num_frames, self.squashed = config.num_frames, config.squashed
        self.first = BiRecurrent("lstm", in_features, config.hidden_features)
        self.second = BiRecurrent("lstm", self.first.out_features, config.hidden_features)
        size, kernel = config.num_convolutions * config.filters, config.kernel_size
        self.convolutions = nn.Conv1d(self.second.out_features, size, kernel, padding=kernel // 2)
        self.dense = nn.Linear(num_classes * (config.capsule_features + 1), config.dense_features)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.dense_features, num_classes)
        glorot(self)
        for convolution in self.convolutions.weight.chunk(config.num_convolutions):  # four convolutions in one
            nn.init.xavier_uniform_(convolution)
        self.capsules = PositionCapsules(config.num_frames, size, num_classes, config)

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> class capsules (B, classes, capsule_features)."""
        x, lengths = self.prepared(features, lengths)[:, : self.num_frames], lengths.clamp_max(self.num_frames)
        mask = lengths_to_mask(lengths, x.shape[1])
        # Zeros past the end: the convolutions reach beyond it.
        x = self.second(self.first(x, lengths)[0], lengths)[0] * mask.unsqueeze(-1)
        u = self.convolutions(x.transpose(1, 2)).transpose(1, 2)  # (B, T, F) -> (B, F, T) -> (B, T, capsule)
        # (B, T, capsule) -> (B, T, 1, capsule): one capsule per step
        return self.capsules((squash(u) if self.squashed else u).unsqueeze(2), mask)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> (B, dense_features)."""
        return self.dropout(self.dense(emotion_vector(self.capsule_vectors(features, lengths))).relu())


@dataclass(frozen=True)
class Ref15Config:
    """Five convolutions, each with ReLU and pooling by 2 x 2: P2 gives their number alone. The sizes are ours."""

    channels: tuple[int, ...] = (8, 16, 32, 48, 64)
    kernel_size: int = 3
    dense_features: int = 64
    dropout: float = 0.5


@dataclass(frozen=True)
class Ref15RecurrentConfig(Ref15Config):
    """``hidden_features``: of each direction of the LSTM behind the convolutions."""

    hidden_features: int = 64


class Ref15CNN(System):
    """The CNN of P2's reference 15 (Satt et al. 2017), of which P2 says: spectrograms in, five convolutional layers.

    All else is usual: pooling after each layer, the mean over the steps, and P2's dense layers.
    """

    def __init__(
        self, in_features: int, num_classes: int, config: Ref15Config, summary_features: int | None = None
    ) -> None:
        super().__init__(in_features)
        sizes, size = (1, *config.channels), config.kernel_size
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, size, padding=size // 2) for i, o in pairwise(sizes))
        # Channels x bins that are left after a pooling by two, rounded up, behind each convolution.
        self.step_features = sizes[-1] * math.ceil(in_features / 2 ** len(config.channels))
        self.dense = nn.Linear(summary_features or self.step_features, config.dense_features)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.dense_features, num_classes)
        glorot(self)

    def summary(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), zero past a length, (B,) -> mean over the steps, (B, C * Q)."""
        # Steps past the end are zero, so that the sum is over the clip's own.
        return frames_of(maps).sum(1) / lengths.clamp_min(1).unsqueeze(-1)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> (B, dense_features)."""
        x = self.prepared(features, lengths).unsqueeze(1)  # (B, T, bins) -> (B, 1, T, bins)
        for convolution in self.convolutions:
            x, lengths = pooled(convolution(x), lengths, (2, 2))
        return self.dropout(self.dense(self.summary(x, lengths)).relu())


class Ref15CNNLSTM(Ref15CNN):
    """The CNN_LSTM of P2's reference 15: the same convolutions, then a bidirectional LSTM and its final states."""

    def __init__(self, in_features: int, num_classes: int, config: Ref15RecurrentConfig) -> None:
        super().__init__(in_features, num_classes, config, 2 * config.hidden_features)
        self.recurrent = BiRecurrent("lstm", self.step_features, config.hidden_features)

    def summary(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), (B,) -> (B, 2 * hidden_features)."""
        return self.recurrent(frames_of(maps), lengths)[1]


MODELS = {
    "cnn_gru": Entry(CNNGRU, GRUConfig),
    "cnn_gru_att": Entry(CNNGRUAtt, AttentionConfig),
    "lstm_cap": Entry(LSTMCap, LSTMCapConfig),
    "cnn_cap": Entry(CNNCap, CNNCapConfig),
    "cnn_seqcap": Entry(CNNSeqCap, CapsuleConfig),
    "cnn_reccap": Entry(CNNRecCap, CapsuleConfig),
    "cnn_gru_seqcap": Entry(CNNGRUSeqCap, HybridConfig),
    "cnn_gru_reccap": Entry(CNNGRURecCap, HybridConfig),
    "ref15_cnn": Entry(Ref15CNN, Ref15Config),
    "ref15_cnn_lstm": Entry(Ref15CNNLSTM, Ref15RecurrentConfig),
}
