"""What decides a run, and the clips that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from capslib import corpora, features, perturbation, schedules
from capslib.errors import CapslibError, choose
from capslib.features import FeatureConfig

# First epochs: in random order, or by increasing length of the utterance that a segment is from, of the segment itself, or
# in the same batches as by utterance, but shuffled (P2 section IV-D and its control).
ORDERS = ("random", "short_utterances_first", "short_segments_first", "sorted_batches")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        corpus: key, "fsdd:digit".
        split: name of the fold.
        model: name.
        options: what differs from the model's defaults.
        seed: of initialization, order and dropout.
        features: kind and options.
        epochs: fixed; the best on validation data is kept. With 0 the model stays untrained.
        batch_size: clips.
        learning_rate: Adam's.
        gradient_clip: largest norm of the gradient.
        max_train_clips: train on so many clips only (quick looks at large corpora); None for all.
        perturb: kind and levels (see ``perturbation``): in every epoch each training clip comes at one level, drawn anew;
            validation has every clip at all of them, the test part as recorded.
        source: another run, whose embedding of each clip is appended to all of its frames (P0 section 6.2).
        segment_frames: cut training clips into segments of so many frames (the last may be shorter); None for whole clips.
        order: of the first epoch, one of ``ORDERS``.
        schedule: of the learning rate, a name in ``schedules.SCHEDULES``.
    """

    corpus: str
    split: str
    model: str
    options: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    gradient_clip: float = 5.0
    max_train_clips: int | None = None
    perturb: tuple[str, tuple[float, ...]] | None = None
    source: RunConfig | None = None
    segment_frames: int | None = None
    order: str = "random"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        """Raises:
        CapslibError: for a value that no run can have.
        """
        choose(self.order, ORDERS, "order")
        choose(self.schedule, schedules.SCHEDULES, "schedule")
        if self.epochs < 0 or (self.segment_frames is not None and self.segment_frames < 1):
            raise CapslibError(
                f"{self.title()}: epochs={self.epochs}, segment_frames={self.segment_frames}: give epochs from 0 on, and "
                "segments of at least one frame"
            )
        if self.perturb is not None:
            kind, levels = self.perturb
            choose(kind, perturbation.KINDS, "perturbation")
            if not levels:
                raise CapslibError(f"{self.title()}: perturb={kind!r} without a level: give at least one")
        if self.source is not None and self.source.source is not None:
            raise CapslibError(f"{self.title()}: its source has a source itself: leave that out")

    def title(self) -> str:
        """For progress bars and errors: "caps on fsdd:digit, split theo, seed 0"."""
        options = "".join(f" {name}={value}" for name, value in self.options)
        return f"{self.model}{options} on {self.corpus}, split {self.split}, seed {self.seed}"

    def described(self) -> dict:
        """As a record holds it. Fields from ``perturb`` on are left out at their defaults, so that a new one does not give
        another key to every run there is."""
        names = [f.name for f in fields(self)]
        later = {f.name: f.default for f in fields(self)[names.index("perturb") :]}
        found = asdict(replace(self, source=None))
        if self.source is not None:
            found["source"] = self.source.described()
        return {name: value for name, value in found.items() if name not in later or value != later[name]}


@dataclass(frozen=True)
class Part:
    """Clips of one part of a split.

    Attributes:
        clips: features of each, (frames, F).
        targets: class index of each, (clips,), or which classes are there, (clips, classes).
        variants: the same clips at each of ``levels`` of a perturbation.
        parents: frames of the clip that each segment was cut from, (clips,); None where clips are whole.
    """

    clips: Sequence[Tensor]
    targets: Tensor
    variants: tuple[Sequence[Tensor], ...] = ()
    levels: tuple[float, ...] = ()
    parents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip."""
        return np.array([len(clip) for clip in self.clips])

    @property
    def longest(self) -> int:
        """Frames of the longest clip, at any level."""
        return max(len(clip) for some in (self.clips, *self.variants) for clip in some)

    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Padded features (B, T, F), lengths (B,), targets (B,) or (B, classes)."""
        chosen = [self.clips[i] for i in indices]
        padded = nn.utils.rnn.pad_sequence(chosen, batch_first=True).to(device, non_blocking=True)
        lengths = torch.tensor([len(clip) for clip in chosen], device=device)
        return padded, lengths, self.targets[torch.as_tensor(indices)].to(device)

    def drawn(self, random: np.random.Generator) -> Part:
        """Each clip at one level of the perturbation; itself where there is none."""
        if not self.variants:
            return self
        levels = random.integers(len(self.variants), size=len(self))
        return replace(self, clips=[self.variants[level][i] for i, level in enumerate(levels)])

    def at_all_levels(self) -> Part:
        """All clips at the first level, then all at the next, and so on; itself where there is no perturbation."""
        if not self.variants:
            return self
        clips = [clip for variant in self.variants for clip in variant]
        return Part(clips, self.targets.repeat(len(self.variants), *[1] * (self.targets.dim() - 1)))

    def segmented(self, num_frames: int) -> Part:
        """Clips cut into segments of ``num_frames``; what is left at the end is a shorter one."""
        if self.variants:
            raise CapslibError("segment_frames and perturb cannot be combined: leave one of them out")
        pieces = [clip.split(num_frames) for clip in self.clips]
        counts = [len(piece) for piece in pieces]
        return Part(
            [segment for piece in pieces for segment in piece],
            self.targets.repeat_interleave(torch.tensor(counts), dim=0),
            parents=np.repeat(self.lengths, counts),
        )


def targets(labels: Sequence[str], classes: Sequence[str], multi_label: bool = False) -> Tensor:
    """Class indices (clips,), or with several labels a clip ("speech+noise") which of the classes are there, (clips, classes)."""
    index = {name: i for i, name in enumerate(classes)}
    if not multi_label:
        return torch.tensor([index[label] for label in labels])
    present = torch.zeros(len(labels), len(classes))
    for row, label in enumerate(labels):
        present[row, [index[name] for name in label.split("+")]] = 1.0
    return present


def load_parts(corpus: corpora.Corpus, config: RunConfig, vectors: Tensor | None = None) -> dict[str, Part]:
    """Features and targets of train, validation and test.

    Args:
        corpus: of ``config``.
        config: of the run.
        vectors: appended to every frame of the clip in the corpus' row, (rows, E).
    Raises:
        CapslibError: for an unknown split, or a clip whose features are not all numbers.
    """
    split = corpus.split(config.split)
    extracted = features.extract(corpus, config.features)
    kind, levels = config.perturb or ("", ())
    varied = [features.extract(corpus, config.features, perturbation=(kind, level)) for level in levels]

    def clips(found: features.Features, rows: Sequence[int]) -> list[Tensor]:
        cut = [torch.from_numpy(np.array(found[row])) for row in rows]
        if vectors is None:
            return cut
        return [torch.cat([c, vectors[row].expand(len(c), -1)], dim=1) for c, row in zip(cut, rows, strict=True)]

    parts = {}
    for part in ("train", "validation", "test"):
        ids = list(getattr(split, part))
        if part == "train" and config.max_train_clips and len(ids) > config.max_train_clips:
            chosen = np.random.default_rng(0).permutation(len(ids))[: config.max_train_clips]
            ids = [ids[i] for i in sorted(chosen)]
        rows = corpus.table.loc[ids]
        found = Part(
            clips(extracted, rows["row"]),
            targets(list(rows["label"]), corpus.classes, corpus.about.multi_label),
            tuple(clips(variant, rows["row"]) for variant in varied),
            tuple(levels),
        )
        broken = [item for item, clip in zip(ids, found.clips, strict=True) if not clip.isfinite().all()]
        if broken:
            raise CapslibError(
                f"the features of clip {broken[0]} of {corpus.name} are not all numbers: check the recording"
            )
        cut = part == "train" and config.segment_frames
        parts[part] = found.segmented(config.segment_frames) if cut else found
    return parts


def batches(lengths: np.ndarray, batch_size: int, random: np.random.Generator | None = None) -> list[np.ndarray]:
    """Indices, in batches of clips of like length.

    Args:
        lengths: frames of each clip.
        batch_size: clips.
        random: shuffles first, then sorts within eight batches and shuffles the batches, so that padding is short and
            the order still random; None for one fixed order by length.
    """
    if random is None:
        order = np.argsort(lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    order, chunk, out = random.permutation(len(lengths)), 8 * batch_size, []
    for start in range(0, len(order), chunk):
        pool = order[start : start + chunk]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        out.extend(pool[i : i + batch_size] for i in range(0, len(pool), batch_size))
    return [out[i] for i in random.permutation(len(out))]


def epoch_batches(part: Part, config: RunConfig, epoch: int, random: np.random.Generator) -> list[np.ndarray]:
    """The batches of one epoch (from 1), in the order of ``config``."""
    if config.order == "random" or epoch > 1:
        return batches(part.lengths, config.batch_size, random)
    parents = part.lengths if part.parents is None else part.parents
    keys = (part.lengths,) if config.order == "short_segments_first" else (part.lengths, parents)
    order = np.lexsort(keys)
    ordered = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    if config.order == "sorted_batches":
        return [ordered[i] for i in random.permutation(len(ordered))]
    return ordered
