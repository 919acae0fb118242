"""Figures, in one style; each writes PNG and SVG, and beside them the data that it shows as CSV.

The pictures are not compared by any test, the CSVs are: they say the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import soundfile
import torch
from IPython.display import HTML, Audio, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from capslib import features, paths, statistics, tables
from capslib.corpora import Corpus
from capslib.features import FeatureConfig
from capslib.study import Runs

# Okabe and Ito's palette: told apart with any colour vision.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
_STYLE = {
    "figure.dpi": 80,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "legend.frameon": False,
}


def save(figure: Figure, name: str, data: pd.DataFrame, out: Path) -> None:
    """Write ``figures/<name>.png``, ``.svg`` and ``.csv`` below ``out``, and show the figure."""
    folder = out / "figures"
    figure.set_dpi(_STYLE["figure.dpi"])
    mpl.rcParams["svg.hashsalt"], mpl.rcParams["svg.fonttype"] = "capslib", "none"
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        paths.write_atomically(
            folder / f"{name}{suffix}",
            lambda temporary, metadata=metadata: figure.savefig(
                temporary, metadata=metadata, bbox_inches="tight", dpi=120
            ),
        )
    paths.write_text(folder / f"{name}.csv", data.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    plt.show()
    plt.close(figure)


def _grid(panels: int, columns: int, width: float, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    columns = max(1, min(columns, panels))
    rows = -(-panels // columns)
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
        )
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    return figure, axes


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
    """Waveform, log-spectrogram (10 Hz a bin, up to 4 kHz) and 20 static MFCC values of some clips, a column each."""
    spectrogram = FeatureConfig(
        "spectrogram", (("n_fft", corpus.sample_rate // 10), ("num_bins", min(400, corpus.sample_rate // 20)))
    )
    mfcc = features.extract(corpus)
    module = spectrogram.build(corpus.sample_rate)
    rows = []
    figure, axes = _grid(3 * len(items), len(items), 3.1, 2.0)
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
        axes[1, column].imshow(
            drawn,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, top),
            vmin=np.percentile(drawn, 20),
            cmap="magma",
        )
        scaled = (static - static.mean(1, keepdims=True)) / static.std(1, keepdims=True)
        axes[2, column].imshow(
            scaled,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, -0.5, 19.5),
            cmap="RdBu_r",
            vmin=-3,
            vmax=3,
            interpolation="none",
        )
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
    """Histogram of clip durations, a panel a corpus."""
    figure, axes = _grid(len(all_corpora), 3, 3.4, 2.2)
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
    """Mean and deviation of each of the 60 values over the training part of the first fold, against all clips."""
    extracted = features.extract(corpus)
    training = corpus.table.loc[list(corpus.splits[0].train), "row"]
    parts = {
        "training part": np.concatenate([extracted[row] for row in training]),
        "all clips (a leak)": np.concatenate([extracted[row] for row in corpus.table["row"]]),
    }
    figure, axes = _grid(2, 2, 4.8, 2.4)
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


def accuracies(runs: Runs, columns: Sequence[str], paper: str, table: str, name: str, out: Path) -> None:
    """Mean and 95% interval of every system on every corpus, its units as dots, the published value as a black dash."""
    runs = statistics.comparable(runs, columns)
    keys = [key for key in runs.grid.cards if runs.of(corpus=key)]
    figure, axes = _grid(len(keys), 3, 3.2, 2.9, sharey=True)
    published = tables.published(paper, table)
    rows = []
    for axis, key in zip(axes.flat, keys, strict=False):
        card = runs.grid.cards[key]
        for i, model in enumerate(columns):
            records = runs.of(corpus=key, system=model)
            if not records:
                continue
            units = statistics.unit_accuracies(records)
            value = statistics.interval(units.to_numpy())
            spread = np.linspace(-0.18, 0.18, len(units)) if len(units) > 1 else [0.0]
            axis.plot(i + np.asarray(spread), units.to_numpy(), ".", color=PALETTE[i], alpha=0.35, markersize=5)
            error = np.array([[value.mean - value.low], [value.high - value.mean]])
            error = None if np.isnan(error).any() else error
            axis.errorbar(i, value.mean, yerr=error, fmt="o", color=PALETTE[i], capsize=4, markersize=6)
            title = tables.COLUMN_TITLES.get(model, model)
            row = card["role"].removeprefix(f"{paper} ")
            reported = (
                published.loc[row, title] if card["role"].startswith(paper) and row in published.index else np.nan
            )
            if np.isfinite(reported):
                axis.plot([i - 0.3, i + 0.3], [reported] * 2, color="black", linewidth=1.6)
            rows.append(
                {
                    "corpus": key,
                    "model": model,
                    "mean": value.mean,
                    "low": value.low,
                    "high": value.high,
                    "units": value.n,
                    "published": reported,
                    "evidence": card["evidence"],
                }
            )
        axis.axhline(1 / len(card["classes"]), color="grey", linewidth=0.8, linestyle=":")
        axis.set_xticks(range(len(columns)), [tables.COLUMN_TITLES.get(m, m) for m in columns])
        stands = f" for {card['role']}" if card["evidence"] == "stand-in" and card["role"] else ""
        axis.set_title(f"{key}\n{tables.evidence(card)}{stands}", fontsize=9)
        axis.set_ylim(0, 1)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy")
    save(figure, name, pd.DataFrame(rows), out)


def course(axis: Axes, records: Sequence[Mapping], metric: str, colour: object, label: str) -> list[dict]:
    """Draw a metric over the epochs, mean over the records with their range.

    Args:
        records: of one system, with equally many epochs.
        metric: of an epoch, such as "train_loss".
    Returns:
        Epoch, mean, lowest and highest of each point.
    """
    curves = np.array([[epoch[metric] for epoch in record["epochs"]] for record in records])
    epochs = np.arange(1, curves.shape[1] + 1)
    axis.plot(epochs, curves.mean(0), color=colour, label=label)
    axis.fill_between(epochs, curves.min(0), curves.max(0), color=colour, alpha=0.12, linewidth=0)
    points = zip(epochs, curves.mean(0), curves.min(0), curves.max(0), strict=True)
    return [{"epoch": e, "mean": m, "lowest": a, "highest": b} for e, m, a, b in points]


def learning_curves(runs: Runs, columns: Sequence[str], name: str, out: Path) -> None:
    """Training loss and validation accuracy an epoch, mean over folds and seeds, with the range of single runs."""
    keys = [key for key in runs.grid.cards if any(runs.of(corpus=key, system=system) for system in columns)]
    if not keys:
        display(HTML("<p>Not run yet.</p>"))
        return
    figure, axes = _grid(2 * len(keys), len(keys), 2.9, 2.3, sharex="col")
    rows = []
    for column, key in enumerate(keys):
        for i, model in enumerate(columns):
            records = runs.of(corpus=key, system=model)
            if not records:
                continue
            for axis, metric in zip(axes[:, column], ("train_loss", "validation_accuracy"), strict=True):
                curve = course(axis, records, metric, PALETTE[i], tables.COLUMN_TITLES.get(model, model))
                rows += [{"corpus": key, "model": model, "metric": metric} | point for point in curve]
        axes[0, column].set_title(key, fontsize=9)
        axes[1, column].set(xlabel="epoch", ylim=(0, 1.02))
        axes[1, column].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("validation accuracy")
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2 * len(keys), fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)


def confusion_matrices(runs: Runs, model: str, name: str, out: Path) -> None:
    """Where one system errs: recall matrices, test clips of all folds and seeds pooled, a panel a corpus."""
    keys = [key for key in runs.grid.cards if runs.of(corpus=key, system=model)]
    figure, axes = _grid(len(keys), 3, 3.6, 3.3)
    rows = []
    for axis, key in zip(axes.flat, keys, strict=False):
        records = runs.of(corpus=key, system=model)
        counts = np.sum([record["confusion"] for record in records], axis=0)
        classes = records[0]["classes"]
        recall = counts / counts.sum(1, keepdims=True)
        sns.heatmap(
            recall, ax=axis, vmin=0, vmax=1, cmap="Blues", annot=len(classes) <= 6, fmt=".2f", cbar=False, square=True,
            xticklabels=classes, yticklabels=classes, annot_kws={"fontsize": 8},
        )  # fmt: skip
        axis.set_title(key, fontsize=9)
        axis.set(xlabel="predicted", ylabel="true")
        axis.grid(False)
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="x", rotation=90)
        axis.tick_params(axis="y", rotation=0)
        rows += [
            {"corpus": key, "true": t, "predicted": p, "clips": int(counts[i, j]), "share": recall[i, j]}
            for i, t in enumerate(classes)
            for j, p in enumerate(classes)
        ]
    save(figure, name, pd.DataFrame(rows), out)


def over_option(
    runs: Runs,
    values: Mapping[str, float],
    label: str,
    name: str,
    out: Path,
    published: Mapping[str, str] | None = None,
) -> None:
    """Test accuracy (with 95% interval over units) and training accuracy as one option of a system changes, a panel for each
    corpus on which at least two values were run; on the seeds that all of them have.

    Args:
        values: of the option, by name of system.
        label: what the option is.
        published: columns of P0's Table 1 by name of system, drawn as black dashes where the corpus is the paper's.
    """
    runs = statistics.comparable(runs, values)
    keys = [key for key in runs.grid.cards if sum(bool(runs.of(corpus=key, system=system)) for system in values) > 1]
    if not keys:
        display(HTML("<p>Not run yet.</p>"))
        return
    figure, axes = _grid(len(keys), 3, 3.2, 2.7, sharey=True)
    table = tables.published("P0", "Table 1")
    rows = []
    for axis, key in zip(axes.flat, keys, strict=False):
        card, points = runs.grid.cards[key], []
        for system, x in sorted(values.items(), key=lambda item: item[1]):
            records = runs.of(corpus=key, system=system)
            if records:
                value = statistics.cell(records)
                training = float(np.mean([record["train"]["accuracy"] for record in records]))
                points.append((x, value.mean, value.low, value.high, training, len(records)))
            column = (published or {}).get(system)
            row = card["role"].removeprefix("P0 ")
            if column and row in table.index and card["evidence"] == "same corpus":
                axis.plot(x, table.loc[row, column], "_", color="black", markersize=16, mew=2)
        x, mean, low, high, training, _ = map(np.array, zip(*points, strict=True))
        error = np.nan_to_num(np.array([mean - low, high - mean]))
        axis.errorbar(x, mean, yerr=error, fmt="o-", color=PALETTE[0], capsize=3, label="test")
        axis.plot(x, training, "s--", color=PALETTE[1], markersize=4, label="training")
        axis.axhline(1 / len(card["classes"]), color="grey", linewidth=0.8, linestyle=":")
        axis.set_title(f"{key}\n{tables.evidence(card)}", fontsize=9)
        axis.set(xlabel=label, ylim=(0, 1.02))
        if max(x) > 8 * (smallest := min(x[x > 0])):
            axis.set_xscale("symlog", linthresh=smallest, linscale=0.4)  # logarithmic, with a place for zero
            scale = axis.xaxis.get_transform()
            left, right = scale.transform(np.array([min(x), max(x)], dtype=float))
            room = 0.08 * (right - left)
            axis.set_xlim(*scale.inverted().transform(np.array([left - room, right + room])))
        axis.set_xticks(x, [f"{value:g}" for value in x], minor=False)
        axis.minorticks_off()
        columns = ["value", "mean", "low", "high", "training", "runs"]
        rows += [{"corpus": key} | dict(zip(columns, point, strict=True)) for point in points]
    axes[0, 0].set_ylabel("accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)
