"""How sure a network is of each class as speech sinks into noise (beyond P0 section 5.5)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from capslib import corpora, models, training
from capslib.corpora.mixtures import remix
from capslib.errors import CapslibError
from capslib.figures.style import PALETTE, band, grid, legend, not_yet, save
from capslib.probes.parts import Probe, by, rounded
from capslib.training import Part, RunConfig

SNRS = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0)  # decibels


def mixed_again(config: RunConfig) -> tuple[Part]:
    """The test clips of a run in which speech and noise sound at once, mixed again at each of ``SNRS``."""
    corpus = corpora.load(config.corpus)
    table = corpus.table.loc[list(corpus.split(config.split).test)]
    items = list(table.index[table["label"].str.contains("+", regex=False)])
    module = config.features.build(corpus.sample_rate)
    variants = []
    for snr in SNRS:
        waveforms = [torch.from_numpy(waveform) for waveform in remix(corpus, items, snr)]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        with torch.inference_mode():
            values, frames = module(nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths)
        variants.append([clip[:n].clone() for clip, n in zip(values, frames.tolist(), strict=True)])
    targets = torch.ones(len(items), len(corpus.classes))
    return (Part(variants[0], targets, tuple(variants), SNRS),)


def over_snr(model: models.AudioModel, part: Part) -> dict:
    """Scores of every class at each signal-to-noise ratio, for clips that have all classes in them.

    Args:
        model: scores are lengths of capsules (margin loss), or else logits, given as probabilities.
        part: from ``mixed_again``.
    Returns:
        snr in decibels; scores and detected, for each class (in the corpus' order) its mean score and the share of
        clips in which it is detected, at each ratio.
    Raises:
        CapslibError: for clips that are no mixtures at several ratios.
    """
    if not part.variants or part.targets.dim() != 2:
        raise CapslibError("these clips are not mixtures at several ratios: give those of mixed_again")
    _, threshold = training.MULTI_LABEL[model.loss]
    scores = [training.predict(model, Part(clips, part.targets), torch.device("cpu")) for clips in part.variants]
    shown = scores if model.loss == "margin" else [score.sigmoid() for score in scores]
    return {
        "snr": list(part.levels),
        "scores": rounded(torch.stack([s.mean(0) for s in shown]).T),
        "detected": rounded(torch.stack([(s > threshold).float().mean(0) for s in scores]).T),
    }


def draw(results: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """Mean score of each class over the signal-to-noise ratio, and dashed the share of clips in which it is detected.
    One panel for each corpus and system; bands are ranges over folds and seeds. The results are of ``over_snr``, the
    classes in the order of the corpora; for ``name`` and ``out`` see ``figures.save``."""
    if not results:
        return not_yet()
    panels = by(results, "corpus", "system")
    figure, axes = grid(len(panels), 2, 3.8, 2.7, sharey=True)
    parts = []
    for axis, ((corpus, system), some) in zip(axes.flat, panels.items(), strict=False):
        snr = some[0]["snr"]
        scores, detected = (np.array([result[what] for result in some]) for what in ("scores", "detected"))
        for k, label in enumerate(classes):
            score = band(axis, snr, scores[:, k], "o-", color=PALETTE[k], label=f"{label}: score", markersize=4)
            share = detected[:, k].mean(0)
            axis.plot(snr, share, "--", color=PALETTE[k], linewidth=1, label=f"{label}: share detected")
            head = {"corpus": corpus, "system": system, "class": label}
            parts.append(pd.DataFrame({**head, "snr": snr, "score": score, "detected": share}))
        axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axis.axvline(5, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="speech over noise in dB", ylim=(0, 1))
        axis.set_title(f"{system} on {corpus}", fontsize=9)
    axes[0, 0].set_ylabel("length (CAPS), probability\n(ATT), or share detected")
    legend(figure, 4)
    save(figure, name, pd.concat(parts), out)


PROBES = {"over_snr": Probe(over_snr, mixed_again)}
