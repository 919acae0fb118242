"""How systems learn: loss and validation accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from capslib import statistics
from capslib.figures.style import PALETTE, grid, not_yet, save
from capslib.study import Runs
from capslib.tables import title

_METRICS = {"train_loss": "training loss", "validation_accuracy": "validation accuracy"}


def learning_curves(runs: Runs, systems: Sequence[str], name: str, out: Path) -> None:
    """Training loss and validation accuracy by epoch, one column per corpus: mean over folds and seeds, and the range.

    Args:
        runs: of the systems.
        systems: names.
        name, out: see ``figures.save``.
    """
    keys = [key for key in runs.grid.cards if any(runs.of(corpus=key, system=system) for system in systems)]
    if not keys:
        not_yet()
        return
    figure, axes = grid(2 * len(keys), len(keys), 2.9, 2.3, sharex="col")
    rows = []
    for column, key in enumerate(keys):
        for i, system in enumerate(systems):
            records = runs.of(corpus=key, system=system)
            if not records:
                continue
            for axis, metric in zip(axes[:, column], _METRICS, strict=True):
                points = _curve(axis, records, metric, PALETTE[i], title(system))
                rows += [{"corpus": key, "model": system, "metric": metric} | point for point in points]
        axes[0, column].set_title(key, fontsize=9)
        axes[1, column].set(ylim=(0, 1.02))
        _epochs(axes[1, column])
    for axis, label in zip(axes[:, 0], _METRICS.values(), strict=True):
        axis.set_ylabel(label)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2 * len(keys), fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)


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
    there = {r["config"]["corpus"] for r in runs.records if any(r["system"] in every[s].values() for s in drawn)}
    panels = [(key, metric) for key in runs.grid.cards if key in there for metric in _METRICS]
    if not panels:
        not_yet()
        return
    figure, axes = grid(len(panels) * len(drawn), len(drawn), 2.3, 1.9, sharex=True, sharey="row")
    rows, handles = [], {}
    for (key, metric), line in zip(panels, axes, strict=True):
        for system, axis in zip(drawn, line, strict=True):
            ran = {order: runs.of(corpus=key, system=variant) for order, variant in every[system].items()}
            folds = [{statistics.run_of(r) for r in records} for records in ran.values() if records]
            shared = set.intersection(*folds) if folds else set()
            for place, (order, records) in enumerate(ran.items()):
                records = [r for r in records if statistics.run_of(r) in shared]
                if records:
                    head = {"corpus": key, "system": system, "order": order, "runs": len(records), "metric": metric}
                    rows += [head | point for point in _curve(axis, records, metric, PALETTE[place], order)]
            if metric == "train_loss" and shared:
                axis.text(0.97, 0.9, f"{len(shared)} runs each", fontsize=7, ha="right", transform=axis.transAxes)
            handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        line[0].set_ylabel(f"{key}\n{_METRICS[metric]}", fontsize=8)
    for system, top, bottom in zip(drawn, axes[0], axes[-1], strict=True):
        top.set_title(system, fontsize=9)
        _epochs(bottom)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)


def _curve(axis: Axes, records: Sequence[Mapping], metric: str, colour: object, label: str) -> list[dict]:
    """Draw a metric of each epoch, mean over records of equally many epochs with their range; give back the points."""
    curves = np.array([[epoch[metric] for epoch in record["epochs"]] for record in records])
    epochs, mean, lowest, highest = np.arange(1, curves.shape[1] + 1), curves.mean(0), curves.min(0), curves.max(0)
    axis.plot(epochs, mean, color=colour, label=label)
    axis.fill_between(epochs, lowest, highest, color=colour, alpha=0.12, linewidth=0)
    points = zip(epochs, mean, lowest, highest, strict=True)
    return [{"epoch": e, "mean": m, "lowest": a, "highest": b} for e, m, a, b in points]


def _epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
