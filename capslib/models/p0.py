"""P0's systems (section 4): CNN, LSTM, LSTM with attention, and the capsule network with its variants.

The paper gives no sizes. Ours are comparable: 162,000 to 166,000 parameters; the capsule network has 168,000 to
184,000.

Letters: B clips, T frames (padded), F features per frame.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from capslib.errors import CapslibError, choose
from capslib.features import lengths_to_mask
from capslib.layers import ROUTINGS, AttentionPooling, BiLSTM, CapsuleLayer, MaskedBatchNorm, masked_mean
from capslib.models import AudioModel, CapsuleModel, Clips, Entry


@dataclass(frozen=True)
class CNNConfig:
    """Four 1-D convolutions over time; the features of a frame are the channels of the first."""

    channels: tuple[int, ...] = (96, 96, 128, 128)
    kernel_sizes: tuple[int, ...] = (5, 5, 3, 3)
    pools: tuple[int, ...] = (1, 2, 1, 2)
    dropout: float = 0.3


class CNN(AudioModel):
    """Convolution, batch normalization, ReLU and max pooling, four times; mean over time; a linear layer."""

    def __init__(self, in_features: int, num_classes: int, config: CNNConfig) -> None:
        super().__init__(in_features)
        self.pools, sizes = config.pools, (in_features, *config.channels)
        self.convolutions = nn.ModuleList(
            # without a bias, because batch normalization follows
            nn.Conv1d(i, o, k, padding=k // 2, bias=False)
            for (i, o), k in zip(pairwise(sizes), config.kernel_sizes, strict=True)
        )
        self.input_norm = MaskedBatchNorm(in_features)
        self.norms = nn.ModuleList(MaskedBatchNorm(o) for o in config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(sizes[-1], num_classes)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> (B, channels)."""
        mask = lengths_to_mask(lengths, features.shape[1])
        x = self.input_norm(self.standardize(features), mask)
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            x = norm(convolution(x.transpose(1, 2)).transpose(1, 2), mask).relu()  # (B, T, in) -> (B, T, out)
            x = x * mask.unsqueeze(-1)  # the next convolution sees zeros behind a clip's end, as if it were alone
            if pool > 1:  # an incomplete window at the end counts, so that no clip vanishes: T -> ceil(T / pool)
                x = nn.functional.max_pool1d(x.transpose(1, 2), pool, ceil_mode=True).transpose(1, 2)
                lengths = (lengths + pool - 1) // pool
                mask = lengths_to_mask(lengths, x.shape[1])
        return self.dropout(masked_mean(x, mask))  # (B, T, channels) -> (B, channels)


@dataclass(frozen=True)
class RecurrentConfig:
    """Batch normalization, two bidirectional LSTMs and dropout, before whatever reads the steps."""

    hidden_features: int = 64
    dropout: float = 0.3


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
        return self.dropout(x) * mask.unsqueeze(-1), mask  # the LSTMs leave steps past a length undefined


class LSTM(AudioModel):
    """The trunk, then its last forward and its first backward state, and a linear layer."""

    def __init__(self, in_features: int, num_classes: int, config: RecurrentConfig) -> None:
        super().__init__(in_features)
        self.trunk = RecurrentTrunk(in_features, config)
        self.classify = nn.Linear(self.trunk.out_features, num_classes)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> those two states side by side, (B, 2 * hidden_features)."""
        steps, _ = self.trunk(self.standardize(features), lengths)
        half = steps.shape[-1] // 2  # forward states first, then backward ones
        # Each direction where it has read the whole clip: forward at the clip's own last frame, backward at the first.
        last = steps[torch.arange(len(steps), device=steps.device), (lengths - 1).clamp_min(0), :half]
        return torch.cat([last, steps[:, 0, half:]], dim=-1)


class ATT(AudioModel):
    """The trunk, attention over its steps, and a linear layer."""

    def __init__(self, in_features: int, num_classes: int, config: RecurrentConfig) -> None:
        super().__init__(in_features)
        self.trunk = RecurrentTrunk(in_features, config)
        self.pool = AttentionPooling(self.trunk.out_features)
        self.classify = nn.Linear(self.trunk.out_features, num_classes)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), (B,) -> the attended mean of the steps, (B, 2 * hidden_features)."""
        return self.pool(*self.trunk(self.standardize(features), lengths))[0]


@dataclass(frozen=True)
class CapsNetConfig(RecurrentConfig):
    """P0's: capsules of 16. It never says how many routing iterations its CAPS column uses; 3 is Sabour et al.'s."""

    capsule_features: int = 16
    num_iterations: int = 3


class CapsNet(CapsuleModel):
    """P0's capsule network (section 4, figure 1): the trunk, then one capsule per class over its time steps.

    One matrix per class is shared by all time steps, so that clips of any length go in.
    """

    def __init__(self, in_features: int, num_classes: int, config: CapsNetConfig) -> None:
        super().__init__(in_features)
        self.trunk = RecurrentTrunk(in_features, config)
        self.capsules = CapsuleLayer(
            self.trunk.out_features, num_classes, config.capsule_features, num_iterations=config.num_iterations
        )

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.capsules(*self.trunk(self.standardize(features), lengths))


@dataclass(frozen=True)
class RoutedConfig(CapsNetConfig):
    """``routing``: a name in ``layers.ROUTINGS``; ``num_iterations`` is for the rules that have any."""

    routing: str = "dynamic"


class RoutedCapsNet(CapsNet):
    """The capsule network with another routing rule; trunk, matrices and start are the same, so that pairs of runs
    differ in the rule alone (notebook 03)."""

    def __init__(self, in_features: int, num_classes: int, config: RoutedConfig) -> None:
        super().__init__(in_features, num_classes, config)
        build = ROUTINGS[choose(config.routing, ROUTINGS, "routing rule")]
        # After all other layers: a rule with parameters of its own leaves their random start as it is.
        self.capsules.routing = build(num_classes, config.capsule_features, config.num_iterations)


@dataclass(frozen=True)
class DecoderConfig(CapsNetConfig):
    """``weight``: of the mean absolute error beside the margin loss. ``out_features``: leading features of a frame that
    are reconstructed (log energy and 19 coefficients of MFCC-60). ``decoder_features``: sizes of the hidden layers.
    ``num_frames``: that the decoder writes; None for those of the longest training clip."""

    weight: float = 0.5
    out_features: int = 20
    hidden_features: int = 64
    decoder_features: tuple[int, ...] = (256, 512)
    num_frames: int | None = None


class DecodedCapsNet(CapsNet):
    """P0's regularization (section 5.4): a decoder of fully connected layers reconstructs the MFCCs from the capsules.

    It is used in training alone. The paper gives neither its sizes nor the weight of its error. As in Sabour et al.
    (2017, section 4.1) all capsules but the true class' are set to zero before decoding. Only the coefficients
    themselves are reconstructed, because their derivatives follow from them. Raises CapslibError without
    ``num_frames``, or if more features are to be reconstructed than there are.
    """

    low: Tensor
    high: Tensor

    def __init__(self, in_features: int, num_classes: int, config: DecoderConfig) -> None:
        super().__init__(in_features, num_classes, config)
        if not config.num_frames or config.out_features > in_features:
            raise CapslibError(
                f"a decoder for num_frames={config.num_frames} and out_features={config.out_features} of "
                f"{in_features}: give the frames of the longest clip, and no more features than there are"
            )
        self.weight, self.num_frames = config.weight, config.num_frames
        sizes = (num_classes * config.capsule_features, *config.decoder_features)
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
        last = nn.Linear(sizes[-1], config.num_frames * config.out_features)
        # A sigmoid last, because features are scaled to [0, 1] for the reconstruction.
        self.decoder = nn.Sequential(*layers, last, nn.Sigmoid())
        # Buffers, so that they are saved with the weights.
        self.register_buffer("low", torch.zeros(config.out_features))
        self.register_buffer("high", torch.ones(config.out_features))

    def fit(self, part: Clips) -> None:
        """Mean and variance, and the smallest and largest value of each reconstructed feature."""
        super().fit(part)
        frames = torch.cat([clip[:, : len(self.low)] for clip in part.clips])  # (all frames, out_features)
        self.low.copy_(frames.amin(0))
        self.high.copy_(frames.amax(0))

    def scaled(self, features: Tensor) -> Tensor:
        """Leading features in [0, 1] by the training part's range: (B, T, in_features) -> (B, T, out_features)."""
        leading = features[..., : len(self.low)]
        # A feature that never changes in training has no range; a test clip's may lie outside of it.
        return ((leading - self.low) / (self.high - self.low).clamp_min(1e-12)).clamp(0.0, 1.0)

    def reconstruct(self, capsules: Tensor, classes: Tensor) -> Tensor:
        """Scaled features, (B, num_frames, out_features) in [0, 1], from capsules (B, classes, capsule_features) of one
        class per clip, index (B,), or of several, multi-hot (B, classes)."""
        selected = nn.functional.one_hot(classes, capsules.shape[1]) if classes.dim() == 1 else classes
        masked = capsules * selected.unsqueeze(-1).to(capsules.dtype)  # (B, classes, capsule_features)
        # (B, num_frames * out_features) -> (B, num_frames, out_features)
        return self.decoder(masked.flatten(1)).unflatten(1, (self.num_frames, -1))

    def error(self, capsules: Tensor, features: Tensor, lengths: Tensor, classes: Tensor) -> Tensor:
        """Mean absolute error over the clips' own frames, (B,); raises CapslibError if the decoder writes fewer."""
        true = self.scaled(features[:, : int(lengths.max())])  # (B, T, out_features)
        if true.shape[1] > self.num_frames:
            frames = f"the decoder writes {self.num_frames} frames and a clip has {true.shape[1]}"
            raise CapslibError(f"{frames}: set num_frames to the longest clip's")
        written = self.reconstruct(capsules, classes)[:, : true.shape[1]]
        frames = (written - true).abs().mean(-1) * lengths_to_mask(lengths, true.shape[1])  # (B, T)
        return frames.sum(-1) / lengths.clamp_min(1)  # every clip counts the same, however long

    def objective(self, features: Tensor, lengths: Tensor, targets: Tensor, loss: nn.Module) -> Tensor:
        """Margin loss and ``weight`` times the error of the reconstruction from the true class' capsule."""
        capsules = self.capsule_vectors(features, lengths)
        error = self.error(capsules, features, lengths, targets).mean()
        return loss(capsules.norm(dim=-1), targets) + self.weight * error


@dataclass(frozen=True)
class JoinedConfig(CapsNetConfig):
    """``source_features``: the last ones of every frame, the same in all frames of a clip; None for the size of the
    run's source's vectors. ``source_capsules``: number of capsules that such a vector consists of."""

    source_features: int | None = None
    source_capsules: int = 4


class JoinedCapsNet(CapsNet):
    """P0's transfer (section 6.2), in its other reading: the source's capsules join the network's, not its frames.

    The paper says that the source's capsules are "additional input along with MFCCs": every frame holds them then, and
    any model can read them. Here the trunk reads the MFCCs alone, and each source capsule, projected to the trunk's
    size, votes for the class capsules like a further time step. Raises CapslibError if the source's features do not
    divide into ``source_capsules``, or are all there are.
    """

    def __init__(self, in_features: int, num_classes: int, config: JoinedConfig) -> None:
        own = in_features - (config.source_features or in_features)
        if own < 1 or config.source_features % config.source_capsules:
            raise CapslibError(
                f"{in_features} features with source_features={config.source_features} and "
                f"source_capsules={config.source_capsules}: give the run a source with that many"
            )
        super().__init__(own, num_classes, config)
        self.standardize = type(self.standardize)(in_features)  # of all features, the trunk having its own alone
        self.own_features, self.source_capsules = own, config.source_capsules
        self.project = nn.Linear(config.source_features // config.source_capsules, self.trunk.out_features)

    def capsule_vectors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, MFCCs and source), (B,) -> class capsules (B, classes, capsule_features)."""
        x = self.standardize(features)
        steps, mask = self.trunk(x[..., : self.own_features], lengths)
        # All frames of a clip hold the same vector: (B, source_features) -> (B, source_capsules, 2 * hidden_features)
        votes = self.project(x[:, 0, self.own_features :].unflatten(-1, (self.source_capsules, -1)))
        valid = mask.new_ones(len(mask), self.source_capsules)
        # (B, T + source_capsules, 2 * hidden_features) and its mask
        return self.capsules(torch.cat([steps, votes], dim=1), torch.cat([mask, valid], dim=1))


MODELS = {
    "cnn": Entry(CNN, CNNConfig),
    "lstm": Entry(LSTM, RecurrentConfig),
    "att": Entry(ATT, RecurrentConfig),
    "caps": Entry(CapsNet, CapsNetConfig),
    "caps_routed": Entry(RoutedCapsNet, RoutedConfig),
    "caps_decoder": Entry(DecodedCapsNet, DecoderConfig),
    "caps_joined": Entry(JoinedCapsNet, JoinedConfig),
}
