"""How sure a network is of each class as speech sinks into noise (beyond P0 section 5.5)."""

from __future__ import annotations

import torch
from torch import nn

from capslib import corpora, models, training
from capslib.corpora.mixtures import remix
from capslib.errors import CapslibError
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
            found, frames = module(nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths)
        variants.append([clip[:n].clone() for clip, n in zip(found, frames.tolist(), strict=True)])
    targets = torch.ones(len(items), len(corpus.classes))
    return (Part(variants[0], targets, tuple(variants), SNRS),)


def over_snr(model: models.AudioModel, part: Part) -> dict:
    """Scores of every class at each signal-to-noise ratio, for clips that have all classes in them.

    Args:
        model: scores are lengths of capsules (margin loss), or else logits, given as probabilities.
        part: from ``mixed_again``.
    Returns:
        snr in decibels; scores and detected, for each class (in the corpus' order) its mean score and the share of clips
        in which it is told, at each ratio.
    """
    if not part.variants or part.targets.dim() != 2:
        raise CapslibError("these clips are not mixtures at several ratios: look with given=mixed_again")
    _, threshold = training.MULTI_LABEL[model.loss]
    scores = [training.predict(model, Part(clips, part.targets), torch.device("cpu")) for clips in part.variants]
    shown = scores if model.loss == "margin" else [score.sigmoid() for score in scores]
    return {
        "snr": list(part.levels),
        "scores": [[round(v, 4) for v in column] for column in torch.stack([s.mean(0) for s in shown]).T.tolist()],
        "detected": [
            [round(v, 4) for v in column]
            for column in torch.stack([(s > threshold).float().mean(0) for s in scores]).T.tolist()
        ],
    }
