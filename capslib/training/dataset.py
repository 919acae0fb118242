"""The clips of a run: the parts of a split, segments, and the order in which batches come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from capslib import corpora, features
from capslib.errors import CapslibError
from capslib.training.config import RunConfig


@dataclass(frozen=True)
class Part:
    """Clips of one part of a split.

    Attributes:
        clips: features of each, (frames, F).
        targets: class index of each, (clips,), or multi-hot labels, (clips, classes).
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
        """Frames of each clip, (clips,)."""
        return np.array([len(clip) for clip in self.clips])

    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Padded features (B, T, F), lengths (B,), targets (B,) or (B, classes)."""
        clips = [self.clips[i] for i in indices]
        padded = nn.utils.rnn.pad_sequence(clips, batch_first=True).to(device, non_blocking=True)
        lengths = torch.tensor([len(clip) for clip in clips], device=device)
        return padded, lengths, self.targets[torch.as_tensor(indices)].to(device)

    def drawn(self, random: np.random.Generator) -> Part:
        """Each clip at one level of the perturbation, drawn at random; itself where there is none."""
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
        """Clips cut into segments of ``num_frames``; the rest of a clip is a shorter one (P2 section IV-D). Raises
        CapslibError for perturbed clips."""
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
    """Class indices (clips,), or for labels such as "speech+noise" multi-hot float32 (clips, classes)."""
    index = {name: i for i, name in enumerate(classes)}
    if not multi_label:
        return torch.tensor([index[label] for label in labels])
    present = torch.zeros(len(labels), len(classes))
    for row, label in enumerate(labels):
        present[row, [index[name] for name in label.split("+")]] = 1.0
    return present


def load_parts(corpus: corpora.Corpus, config: RunConfig, vectors: Tensor | None = None) -> dict[str, Part]:
    """Features and targets of train, validation and test; ``vectors`` (rows, E) are appended to every frame of the clip
    in the same row of the corpus.

    Raises:
        CapslibError: for an unknown split, segments of perturbed clips, or features that are not all finite.
    """
    split = corpus.split(config.split)
    plain = features.extract(corpus, config.features)
    kind, levels = config.perturb or ("", ())
    perturbed = [features.extract(corpus, config.features, perturbation=(kind, level)) for level in levels]

    def clip(extracted: features.Features, row: int) -> Tensor:
        frames = torch.from_numpy(np.array(extracted[row]))  # (T, F)
        return frames if vectors is None else torch.cat([frames, vectors[row].expand(len(frames), -1)], dim=1)

    parts = {}
    for name in ("train", "validation", "test"):
        ids = list(getattr(split, name))
        if name == "train" and config.max_train_clips and len(ids) > config.max_train_clips:
            # Not the run's seed: every system and every seed is trained on the same subset.
            chosen = np.random.default_rng(0).permutation(len(ids))[: config.max_train_clips]
            ids = [ids[i] for i in sorted(chosen)]
        table = corpus.table.loc[ids]
        clips, *variants = ([clip(extracted, row) for row in table["row"]] for extracted in (plain, *perturbed))
        for item, x in zip(ids, clips, strict=True):
            if not x.isfinite().all():
                raise CapslibError(f"the features of clip {item} of {corpus.name} are not finite: check the recording")
        labels = targets(list(table["label"]), corpus.classes, corpus.about.multi_label)
        part = Part(clips, labels, tuple(variants), tuple(levels))
        parts[name] = part.segmented(config.segment_frames) if name == "train" and config.segment_frames else part
    return parts


def batches(lengths: np.ndarray, batch_size: int, random: np.random.Generator | None = None) -> list[np.ndarray]:
    """Indices of clips of ``lengths`` frames, in batches of similar length.

    With ``random`` they are shuffled, sorted within eight batches, and the batches shuffled, so that there is little
    padding and the order is still random; else the order is by length.
    """
    if random is None:
        return _in_order(np.argsort(lengths, kind="stable"), batch_size)
    pools = _in_order(random.permutation(len(lengths)), 8 * batch_size)
    by_length = (pool[np.argsort(lengths[pool], kind="stable")] for pool in pools)
    return _shuffled([batch for pool in by_length for batch in _in_order(pool, batch_size)], random)


def epoch_batches(part: Part, config: RunConfig, epoch: int, random: np.random.Generator) -> list[np.ndarray]:
    """The batches of one epoch (from 1): the first in the order of ``config``, the others random (P2 section IV-D)."""
    if config.order == "random" or epoch > 1:
        return batches(part.lengths, config.batch_size, random)
    parents = part.lengths if part.parents is None else part.parents
    keys = (part.lengths,) if config.order == "short_segments_first" else (part.lengths, parents)
    ordered = _in_order(np.lexsort(keys), config.batch_size)  # by the last key, then by the one before
    return _shuffled(ordered, random) if config.order == "sorted_batches" else ordered


def _in_order(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _shuffled(ordered: list[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    return [ordered[i] for i in random.permutation(len(ordered))]
