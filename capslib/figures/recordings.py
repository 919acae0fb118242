"""Recordings as they are: players, waveforms and features of clips, durations, and the scaling of features."""

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
from capslib.figures.style import PALETTE, grid, image, save


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
    bins = (("n_fft", corpus.sample_rate // 10), ("num_bins", min(400, corpus.sample_rate // 20)))
    spectrogram, mfcc = FeatureConfig("spectrogram", bins).build(corpus.sample_rate), features.extract(corpus)
    rows = []
    figure, axes = grid(3 * len(items), len(items), 3.1, 2.0)
    loudest = 1.05 * max(float(np.abs(corpus.audio(item)).max()) for item in items)
    for item, (waveform, spectrum, coefficients) in zip(items, axes.T, strict=True):
        samples, row = corpus.audio(item), corpus.table.loc[item]
        power = spectrogram(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].numpy()
        static = mfcc[int(row["row"])][:, :20].T
        seconds = len(samples) / corpus.sample_rate
        waveform.plot(np.arange(len(samples)) / corpus.sample_rate, samples, linewidth=0.5)
        waveform.set(title=f"{row['label']} ({row['group']})", xlim=(0, seconds), ylim=(-loudest, loudest))
        span = (0, seconds, 0, power.shape[1] * 10 / 1000)
        image(spectrum, power, extent=span, vmin=np.percentile(power, 20), cmap="magma")
        scaled = (static - static.mean(1, keepdims=True)) / static.std(1, keepdims=True)
        style = {"cmap": "RdBu_r", "vmin": -3, "vmax": 3, "interpolation": "none"}
        image(coefficients, scaled.T, extent=(0, seconds, -0.5, 19.5), **style)
        coefficients.set_xlabel("seconds")
        head = {"clip": item, "label": row["label"], "seconds": seconds, "peak": float(np.abs(samples).max())}
        means = {f"{value} (mean)": static[i].mean() for i, value in enumerate(("log energy", "c1", "c2"))}
        rows.append({**head, "frames": static.shape[1], **means})
    for axis, label in zip(axes[:, 0], ("amplitude", "kHz", "log energy,\nMFCC 1-19"), strict=True):
        axis.set_ylabel(label)
    save(figure, name, pd.DataFrame(rows), out)


def durations(all_corpora: Sequence[Corpus], name: str, out: Path) -> None:
    """Histogram of clip durations, one panel per corpus."""
    figure, axes = grid(len(all_corpora), 3, 3.4, 2.2)
    parts = []
    for axis, corpus in zip(axes.flat, all_corpora, strict=False):
        counts, edges, _ = axis.hist(corpus.table["duration"], bins=20, color=PALETTE[0])
        axis.set(title=corpus.name, xlabel="seconds", ylabel="clips")
        bins = {"from": edges[:-1], "to": edges[1:], "clips": counts.astype(int)}
        parts.append(pd.DataFrame({"corpus": corpus.key, **bins}))
    save(figure, name, pd.concat(parts), out)


def feature_statistics(corpus: Corpus, name: str, out: Path) -> None:
    """Mean and deviation of each of the 60 values over the training part of the first fold, and over all clips."""
    extracted, training = features.extract(corpus), corpus.table.loc[list(corpus.splits[0].train), "row"]
    rows_of = {"training part": training, "all clips (a leak)": corpus.table["row"]}
    figure, axes = grid(2, 2, 4.8, 2.4)
    parts = []
    for (part, rows), style in zip(rows_of.items(), ("-", "--"), strict=True):
        frames = np.concatenate([extracted[row] for row in rows]).astype(np.float64)
        for axis, statistic in zip(axes.flat, ("mean", "std"), strict=True):
            values = getattr(frames, statistic)(axis=0)
            axis.plot(values, style, label=part, linewidth=1.2)
            head = {"part": part, "statistic": statistic, "feature": np.arange(len(values))}
            parts.append(pd.DataFrame({**head, "value": values}))
    for axis, title in zip(axes.flat, ("mean", "standard deviation"), strict=True):
        axis.set(xlabel="feature", title=title)
        axis.set_yscale("symlog", linthresh=0.1)
        for boundary in (20, 40):
            axis.axvline(boundary - 0.5, color="grey", linewidth=0.6)
    axes.flat[0].legend(fontsize=8)
    save(figure, name, pd.concat(parts), out)
