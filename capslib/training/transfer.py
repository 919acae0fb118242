"""What a run takes from another one, its source, trained on another corpus (P0 section 6.2)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from capslib import corpora, features
from capslib.errors import CapslibError
from capslib.training.config import RunConfig
from capslib.training.dataset import Part
from capslib.training.inference import default_device, map_clips, restore
from capslib.training.loop import reproducibly


@dataclass(frozen=True)
class Transfer:
    """A trained source, as ``train`` takes it."""

    vectors: Tensor  # its embedding of the clip in each row of the run's corpus, (rows, E)
    results: dict  # for the record: its configuration, chosen epoch and results


def check_source(config: RunConfig) -> None:
    """Raises CapslibError if the source has clips of the run's own corpus, other features or another sample rate."""
    source, corpus = config.source, corpora.load(config.corpus)
    origin = corpora.load(source.corpus)
    if not set(origin.table["sha256"]).isdisjoint(corpus.table["sha256"]):
        raise CapslibError(f"{config.title()}: the source has clips of this corpus: transfer needs another one")
    if source.features != config.features:
        raise CapslibError(f"{config.title()}: the source has other features ({source.features}): use the same")
    if origin.sample_rate != corpus.sample_rate:
        raise CapslibError(
            f"{config.title()}: the source {origin.name} has {origin.sample_rate} Hz and {corpus.name} has "
            f"{corpus.sample_rate} Hz: choose a source of the same sample rate"
        )


def source_vectors(config: RunConfig, weights: Path) -> Tensor:
    """The embedding of every clip of a run's corpus by its source, trained to ``weights``.

    Returns:
        (rows, E) on the processor, zeros for clips without a frame.
    Raises:
        CapslibError: if the source does not fit (``check_source``), or its weights cannot be read.
    """
    check_source(config)
    device = default_device()
    model = restore(config.source, weights).to(device)
    extracted = features.extract(corpora.load(config.corpus), config.features)
    clips = {row: torch.from_numpy(np.array(extracted[row])) for row, n in enumerate(extracted.lengths) if n}
    part = Part(list(clips.values()), torch.zeros(len(clips)))
    with reproducibly(config.source.seed):
        embedded = map_clips(model.embed, part, device)
    vectors = torch.zeros(len(extracted.lengths), embedded.shape[1])
    vectors[list(clips)] = embedded
    return vectors
