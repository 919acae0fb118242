"""What systems reach on the test part, beside what the papers print, and how they learn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from capslib import statistics
from capslib.figures.style import PALETTE, band, grid, legend, not_yet, save
from capslib.published import values
from capslib.statistics import Interval
from capslib.study import Runs
from capslib.tables import evidence, title
from capslib.tables.style import titled

_MARKERS = "osD^v"
_LEARNING = {"train_loss": "training loss", "validation_accuracy": "validation accuracy"}


def accuracies(
    runs: Runs, columns: Sequence[str] | Mapping[str, str], published: tuple[str, str], name: str, out: Path
) -> None:
    """Mean and 95% interval of every system on every corpus, its units as dots, the published value as a black dash.

    Args:
        runs: of the systems.
        columns: our systems, each with the paper's column; see ``tables.results``.
        published: paper and table, whose rows are corpora.
        name, out: see ``figures.save``.
    """
    columns, numbers = titled(columns), values(*published)
    runs = statistics.comparable(runs, columns)
    keys = [key for key in runs.grid.cards if runs.of(corpus=key)]
    figure, axes = grid(len(keys), 3, 3.2, 2.9, sharey=True)
    rows = []
    for axis, key in zip(axes.flat, keys, strict=False):
        card = runs.grid.cards[key]
        paper, _, row = card["role"].partition(" ")
        for i, (system, column) in enumerate(columns.items()):
            records = runs.of(corpus=key, system=system)
            if not records:
                continue
            units = statistics.unit_accuracies(records).to_numpy()
            value = statistics.interval(units)
            spread = np.linspace(-0.18, 0.18, len(units)) if len(units) > 1 else np.zeros(1)
            axis.plot(i + spread, units, ".", color=PALETTE[i], alpha=0.35, markersize=5)
            axis.errorbar(i, value.mean, _errors(value), fmt="o", color=PALETTE[i], capsize=4, markersize=6)
            printed = numbers.get((row, column, "accuracy"), np.nan) if paper == published[0] else np.nan
            axis.plot([i - 0.3, i + 0.3], [printed] * 2, color="black", linewidth=1.6)
            line = {"corpus": key, "model": system, "mean": value.mean, "low": value.low, "high": value.high}
            rows.append(line | {"units": value.n, "published": printed, "evidence": card["evidence"]})
        _chance(axis, card)
        axis.set_xticks(range(len(columns)), columns.values())
        role = f" for {card['role']}" if card["evidence"] == "stand-in" and card["role"] else ""
        axis.set_title(f"{key}\n{evidence(card)}{role}", fontsize=9)
        axis.set_ylim(0, 1)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy")
    save(figure, name, pd.DataFrame(rows), out)


def _errors(*values: Interval) -> np.ndarray:
    """Distances to both ends of intervals as ``errorbar`` takes them, (2, n); zero where there is no interval."""
    return np.nan_to_num([[v.mean - v.low for v in values], [v.high - v.mean for v in values]])


def _chance(axis: Axes, card: Mapping) -> None:
    axis.axhline(1 / len(card["classes"]), color="grey", linewidth=0.8, linestyle=":")


def over_option(
    runs: Runs,
    options: Mapping[str, float],
    label: str,
    name: str,
    out: Path,
    metrics: Mapping[str, str] | None = None,
    published: tuple[str, str] | None = None,
    places: Mapping[str, str | tuple[str, str]] | None = None,
    corpus: str = "",
) -> None:
    """Test results with 95% intervals as one option of a system changes, on the seeds that all of its values have.

    One panel per corpus on which at least two values were run, or at least one if two were run on none. Chance is
    dotted, the published value a black dash.

    Args:
        runs: of the systems.
        options: value of the option, by name of system.
        label: what the option is.
        name, out: see ``figures.save``.
        metrics: of the test part, by name, one panel each; by default accuracy, beside that of the training part.
        published: paper and table.
        places: of systems in that table: the column, drawn on the paper's corpora; or row and column, drawn everywhere.
        corpus: that numbers drawn everywhere are of.
    """
    with_training, metrics = metrics is None, metrics or {"accuracy": "accuracy"}
    runs, rows = statistics.comparable(runs, options), []
    for key in runs.grid.cards:
        for system, option in sorted(options.items(), key=lambda item: item[1]):
            records = runs.of(corpus=key, system=system)
            for metric, ours in metrics.items() if records else ():
                value = statistics.cell(records, ours)
                row = {"corpus": key, "metric": metric, "value": option, "mean": value.mean, "low": value.low}
                row |= {"high": value.high, "training": np.mean([record["train"]["accuracy"] for record in records])}
                rows.append(row | {"runs": len(records)})
    if not rows:
        return not_yet()
    data = pd.DataFrame(rows)
    count = data.groupby("corpus")["value"].transform("nunique")
    data = data[count >= min(2, count.max())]
    panels = data.groupby(["corpus", "metric"], sort=False)
    figure, axes = grid(len(panels), 3 if with_training else len(metrics), 3.2, 2.7, sharey=True)
    for axis, ((key, metric), part) in zip(axes.flat, panels, strict=False):
        card, x = runs.grid.cards[key], part["value"].to_numpy()
        axis.errorbar(x, part["mean"], _errors(*part.itertuples()), fmt="o-", color=PALETTE[0], capsize=3, label="test")
        if with_training:
            axis.plot(x, part["training"], "s--", color=PALETTE[1], markersize=4, label="training")
        printed = _printed(card, metric, options, published, places)
        dashes = {"label": f"published ({corpus})" if corpus else "published", "markersize": 16, "mew": 2}
        axis.plot(list(printed), list(printed.values()), "_", color="black", **dashes)
        _chance(axis, card)
        axis.set_title(f"{key}\n{evidence(card)}", fontsize=9)
        labelled = not with_training or axis in axes[:, 0]
        axis.set(xlabel=label, ylabel=metric if labelled else "", ylim=(0, 1.02), xmargin=0.08)
        _option_axis(axis, np.array(sorted({*x, *printed})))
    legend(figure, 3)
    save(figure, name, data.drop(columns="metric" if with_training else "training"), out)


def _printed(
    card: Mapping, metric: str, options: Mapping, published: tuple[str, str] | None, places: Mapping | None
) -> dict[float, float]:
    """The paper's numbers for a corpus, by value of the option."""
    numbers, (paper, _, role), printed = values(*published) if published else {}, card["role"].partition(" "), {}
    for system, place in (places or {}).items():
        row, column = place if isinstance(place, tuple) else (role, place)
        own = paper == published[0] and card["evidence"] == "same corpus"
        if (own or isinstance(place, tuple)) and (row, column, metric) in numbers:
            printed[options[system]] = numbers[row, column, metric]
    return printed


def _option_axis(axis: Axes, x: np.ndarray) -> None:
    """Ticks at the values alone; logarithmic, with a place for zero, where they differ by more than eightfold."""
    if max(x) > 8 * (smallest := min(x[x > 0])):
        axis.set_xscale("symlog", linthresh=smallest, linscale=0.4)
        scale = axis.xaxis.get_transform()
        left, right = scale.transform(np.array([min(x), max(x)], dtype=float))
        room = 0.08 * (right - left)
        axis.set_xlim(*scale.inverted().transform(np.array([left - room, right + room])))
    axis.set_xticks(x, [f"{value:g}" for value in x], minor=False)
    axis.minorticks_off()


def confusion_matrices(runs: Runs, system: str, name: str, out: Path) -> None:
    """Where one system errs: recall matrices, test clips of all folds and seeds pooled, one panel per corpus."""
    keys = [key for key in runs.grid.cards if runs.of(corpus=key, system=system)]
    figure, axes = grid(len(keys), 3, 3.6, 3.3)
    rows = []
    for axis, key in zip(axes.flat, keys, strict=False):
        records = runs.of(corpus=key, system=system)
        counts, classes = np.sum([record["confusion"] for record in records], axis=0), records[0]["classes"]
        recall = counts / counts.sum(1, keepdims=True)
        labels = {"xticklabels": classes, "yticklabels": classes, "annot": len(classes) <= 6, "fmt": ".2f"}
        style = {"cmap": "Blues", "cbar": False, "square": True, "annot_kws": {"fontsize": 8}}
        sns.heatmap(recall, ax=axis, vmin=0, vmax=1, **labels, **style)
        axis.set_title(key, fontsize=9)
        axis.set(xlabel="predicted", ylabel="true")
        axis.grid(False)
        axis.tick_params("x", labelsize=7, rotation=90)
        axis.tick_params("y", labelsize=7, rotation=0)
        rows += [
            {"corpus": key, "true": t, "predicted": p, "clips": counts[i, j], "share": recall[i, j]}
            for i, t in enumerate(classes)
            for j, p in enumerate(classes)
        ]
    save(figure, name, pd.DataFrame(rows), out)


def plane(
    runs: Runs,
    systems: Mapping[str, str | None],
    metrics: Mapping[str, str],
    published: tuple[str, str],
    name: str,
    out: Path,
    corpus: str = "",
) -> None:
    """Two metrics of every system: one panel for the published values, and one per corpus with 95% intervals.

    Systems with fewer folds than the others are left out of a corpus' panel, and named in its title.

    Args:
        runs: of the systems.
        systems: ours, each with the paper's row; None if the paper does not have it.
        metrics: of the test part, two, by the paper's name for each, which is the column as well.
        published: paper and table.
        name, out: see ``figures.save``.
        corpus: that the paper's numbers are of.
    """
    numbers, runs = values(*published), statistics.comparable(runs, systems)
    printed = {s: [numbers[row, m, m] for m in metrics] for s, row in systems.items() if row is not None}
    points = {s: [Interval(v, v, v, 1) for v in pair] for s, pair in printed.items()}
    panels = {f"published ({corpus})" if corpus else "published": points} if points else {}
    for key, card in runs.grid.cards.items():
        records = {s: some for s in systems if (some := runs.of(corpus=key, system=s))}
        folds = {s: len({r["config"]["split"] for r in some}) for s, some in records.items()}
        most = max(folds.values(), default=0)
        without = "".join(f"\nwithout {s} ({n} of {most} folds)" for s, n in folds.items() if n < most)
        whole = {s: [statistics.cell(records[s], m) for m in metrics.values()] for s, n in folds.items() if n == most}
        panels |= {f"{key}\n{evidence(card)}{without}": whole} if whole else {}
    figure, axes = grid(len(panels), 3, 3.6, 3.4)
    rows, places = [], {system: i for i, system in enumerate(systems)}
    for axis, (panel, points) in zip(axes.flat, panels.items(), strict=False):
        for system, (x, y) in points.items():
            place = places[system]
            style = {"color": PALETTE[place % 6], "marker": _MARKERS[place % len(_MARKERS)], "markersize": 6}
            style |= {"elinewidth": 0.5, "linestyle": "none", "label": system}
            axis.errorbar(x.mean, y.mean, _errors(y), _errors(x), **style)
            row = {"panel": panel.replace("\n", ", "), "system": system}
            for metric, value in zip(metrics, (x, y), strict=True):
                row |= {metric: value.mean, f"{metric} low": value.low, f"{metric} high": value.high}
            rows.append(row)
        axis.axline((0.5, 0.5), slope=1, color="grey", linewidth=0.6, linestyle=":")
        across, up = zip(*points.values(), strict=True)
        axis.set(**dict(zip(("xlabel", "ylabel"), metrics, strict=True)), xlim=_limits(across), ylim=_limits(up))
        axis.set_title(panel, fontsize=9)
    legend(figure, 4, "outside lower center", 7)
    save(figure, name, pd.DataFrame(rows), out)


def _limits(points: Sequence[Interval]) -> tuple[float, float]:
    """Of an axis, around means and intervals."""
    ends = [(point.mean, point.low, point.high) for point in points]
    room = max(0.02, 0.06 * (np.nanmax(ends) - np.nanmin(ends)))
    return np.nanmin(ends) - room, np.nanmax(ends) + room


def learning_curves(runs: Runs, systems: Sequence[str], name: str, out: Path) -> None:
    """Training loss and validation accuracy by epoch: mean over folds and seeds, and range; one column per corpus."""
    keys = [key for key in runs.grid.cards if any(runs.of(corpus=key, system=system) for system in systems)]
    if not keys:
        return not_yet()
    figure, axes = grid(2 * len(keys), len(keys), 2.9, 2.3, sharex="col")
    parts = []
    for key, (loss, accuracy) in zip(keys, axes.T, strict=True):
        for i, system in enumerate(systems):
            records = runs.of(corpus=key, system=system)
            for axis, metric in zip((loss, accuracy), _LEARNING, strict=True):
                if records:
                    head = {"corpus": key, "model": system, "metric": metric}
                    parts.append(_curve(axis, records, head, color=PALETTE[i], label=title(system)))
        loss.set_title(key, fontsize=9)
        accuracy.set(ylim=(0, 1.02))
        _epochs(accuracy)
    for axis, label in zip(axes[:, 0], _LEARNING.values(), strict=True):
        axis.set_ylabel(label)
    legend(figure, 2 * len(keys))
    save(figure, name, pd.concat(parts), out)


def curricula(runs: Runs, systems: Sequence[str], orders: Sequence[str], name: str, out: Path) -> None:
    """Learning curves of each system in several orders of its training clips, one column per system.

    Orders are drawn on the folds and seeds that all orders of the system have which were run at all.

    Args:
        runs: of the systems, and of "system, order" for each order.
        systems: names, of runs with the curriculum; those of which nothing was run are left out.
        orders: beside the curriculum: "no curriculum".
        name, out: see ``figures.save``.
    """
    every = {system: {"curriculum": system} | {order: f"{system}, {order}" for order in orders} for system in systems}
    drawn = [system for system in systems if any(runs.of(system=variant) for variant in every[system].values())]
    present = {r["config"]["corpus"] for r in runs.records if any(r["system"] in every[s].values() for s in drawn)}
    panels = [(key, metric) for key in runs.grid.cards if key in present for metric in _LEARNING]
    if not panels:
        return not_yet()
    figure, axes = grid(len(panels) * len(drawn), len(drawn), 2.3, 1.9, sharex=True, sharey="row")
    parts = []
    for (key, metric), row in zip(panels, axes, strict=True):
        for system, axis in zip(drawn, row, strict=True):
            ran = {order: runs.of(corpus=key, system=variant) for order, variant in every[system].items()}
            folds = [{statistics.run_of(r) for r in records} for records in ran.values() if records]
            shared = set.intersection(*folds) if folds else set()
            for i, (order, records) in enumerate(ran.items()):
                records = [r for r in records if statistics.run_of(r) in shared]
                if records:
                    head = {"corpus": key, "system": system, "order": order, "runs": len(records), "metric": metric}
                    parts.append(_curve(axis, records, head, color=PALETTE[i], label=order))
            if metric == "train_loss" and shared:
                axis.text(0.97, 0.9, f"{len(shared)} runs each", fontsize=7, ha="right", transform=axis.transAxes)
        row[0].set_ylabel(f"{key}\n{_LEARNING[metric]}", fontsize=8)
    for system, top, bottom in zip(drawn, axes[0], axes[-1], strict=True):
        top.set_title(system, fontsize=9)
        _epochs(bottom)
    legend(figure, 1 + len(orders))
    save(figure, name, pd.concat(parts), out)


def _curve(axis: Axes, records: Sequence[Mapping], head: Mapping, **style: object) -> pd.DataFrame:
    """Draw a metric of each epoch, mean over records of equally many epochs with their range, and return the points."""
    curves = np.array([[epoch[head["metric"]] for epoch in record["epochs"]] for record in records])
    mean = band(axis, epochs := np.arange(1, curves.shape[1] + 1), curves, **style)
    points = {"epoch": epochs, "mean": mean, "lowest": curves.min(0), "highest": curves.max(0)}
    return pd.DataFrame({**head, **points})


def _epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
