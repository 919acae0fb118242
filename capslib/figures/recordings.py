"""Recordings as they are: players, waveforms and features of clips, durations, and the scaling of features."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from IPython.display import HTML, Audio, display

from capslib import features
from capslib.corpora import Corpus
from capslib.features import FeatureConfig
from capslib.figures.style import PALETTE, grid, save


def player(corpus: Corpus, item: str) -> None:
    """A player for one clip. Recordings of people are not embedded: only what was synthesized here is played."""
    if corpus.about.evidence != "synthetic":
        display(HTML(f"<p>{item}: a real recording, not embedded in the page.</p>"))
        return
    wav = io.BytesIO()
    samples = corpus.decoded[int(corpus.table.loc[item, "row"])]
    soundfile.write(wav, np.asarray(samples), corpus.sample_rate, format="WAV", subtype="PCM_16")
    row = corpus.table.loc[item]
    display(HTML(f"<p>{corpus.name}: {row['label']}, {row['group']}</p>"))
    display(Audio(wav.getvalue()))


def clips(corpus: Corpus, items: Sequence[str], name: str, out: Path) -> None:
    """Waveform, log-spectrogram (10 Hz per bin, up to 4 kHz) and 20 static MFCC values, one column per clip."""
    spectrogram = FeatureConfig(
        "spectrogram", (("n_fft", corpus.sample_rate // 10), ("num_bins", min(400, corpus.sample_rate // 20)))
    )
    mfcc = features.extract(corpus)
    module = spectrogram.build(corpus.sample_rate)
    rows = []
    figure, axes = grid(3 * len(items), len(items), 3.1, 2.0)
    loudest = 1.05 * max(float(np.abs(corpus.audio(item)).max()) for item in items)
    for column, item in enumerate(items):
        samples = corpus.audio(item)
        row = corpus.table.loc[item]
        values, _ = module(*_as_batch(samples))
        static = mfcc[int(row["row"])][:, :20].T
        seconds = len(samples) / corpus.sample_rate
        axes[0, column].plot(np.arange(len(samples)) / corpus.sample_rate, samples, linewidth=0.5)
        axes[0, column].set(title=f"{row['label']} ({row['group']})", xlim=(0, seconds), ylim=(-loudest, loudest))
        top = values.shape[-1] * 10 / 1000
        drawn = values[0].T.numpy()
        image = {"origin": "lower", "aspect": "auto"}
        extent = (0, seconds, 0, top)
        axes[1, column].imshow(drawn, extent=extent, vmin=np.percentile(drawn, 20), cmap="magma", **image)
        scaled = (static - static.mean(1, keepdims=True)) / static.std(1, keepdims=True)
        image |= {"extent": (0, seconds, -0.5, 19.5), "interpolation": "none"}
        axes[2, column].imshow(scaled, cmap="RdBu_r", vmin=-3, vmax=3, **image)
        axes[2, column].set_xlabel("seconds")
        for axis in axes[1:, column]:
            axis.grid(False)
        rows.append(
            {
                "clip": item,
                "label": row["label"],
                "seconds": seconds,
                "peak": float(np.abs(samples).max()),
                "frames": static.shape[1],
                "log energy (mean)": float(static[0].mean()),
                "c1 (mean)": float(static[1].mean()),
                "c2 (mean)": float(static[2].mean()),
            }
        )
    for axis, label in zip(axes[:, 0], ("amplitude", "kHz", "log energy,\nMFCC 1-19"), strict=True):
        axis.set_ylabel(label)
    save(figure, name, pd.DataFrame(rows), out)


def _as_batch(samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(samples)[None], torch.tensor([len(samples)])


def durations(all_corpora: Sequence[Corpus], name: str, out: Path) -> None:
    """Histogram of clip durations, one panel per corpus."""
    figure, axes = grid(len(all_corpora), 3, 3.4, 2.2)
    rows = []
    for axis, corpus in zip(axes.flat, all_corpora, strict=False):
        seconds = corpus.table["duration"].to_numpy()
        counts, edges, _ = axis.hist(seconds, bins=20, color=PALETTE[0])
        axis.set(title=corpus.name, xlabel="seconds", ylabel="clips")
        rows += [
            {"corpus": corpus.key, "from": a, "to": b, "clips": int(n)}
            for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
        ]
    save(figure, name, pd.DataFrame(rows), out)


def feature_statistics(corpus: Corpus, name: str, out: Path) -> None:
    """Mean and deviation of each of the 60 values over the training part of the first fold, and over all clips."""
    extracted = features.extract(corpus)
    training = corpus.table.loc[list(corpus.splits[0].train), "row"]
    parts = {
        "training part": np.concatenate([extracted[row] for row in training]),
        "all clips (a leak)": np.concatenate([extracted[row] for row in corpus.table["row"]]),
    }
    figure, axes = grid(2, 2, 4.8, 2.4)
    rows = []
    for (label, frames), colour in zip(parts.items(), PALETTE, strict=False):
        for axis, statistic in zip(axes.flat, ("mean", "std"), strict=True):
            values = getattr(frames.astype(np.float64), statistic)(axis=0)
            axis.plot(values, label=label, color=colour, linewidth=1.2, linestyle="-" if colour == PALETTE[0] else "--")
            axis.set(xlabel="feature", title={"mean": "mean", "std": "standard deviation"}[statistic])
            rows += [{"part": label, "statistic": statistic, "feature": i, "value": v} for i, v in enumerate(values)]
    for axis in axes.flat:
        axis.set_yscale("symlog", linthresh=0.1)
        for boundary in (20, 40):
            axis.axvline(boundary - 0.5, color="grey", linewidth=0.6)
    axes.flat[0].legend(fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)
