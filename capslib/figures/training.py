"""How systems learn: loss and validation accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from capslib import statistics
from capslib.figures.style import PALETTE, band, grid, legend, not_yet, save
from capslib.study import Runs
from capslib.tables import title

_METRICS = {"train_loss": "training loss", "validation_accuracy": "validation accuracy"}


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
            for axis, metric in zip((loss, accuracy), _METRICS, strict=True):
                if records:
                    head = {"corpus": key, "model": system, "metric": metric}
                    parts.append(_curve(axis, records, head, color=PALETTE[i], label=title(system)))
        loss.set_title(key, fontsize=9)
        accuracy.set(ylim=(0, 1.02))
        _epochs(accuracy)
    for axis, label in zip(axes[:, 0], _METRICS.values(), strict=True):
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
    panels = [(key, metric) for key in runs.grid.cards if key in present for metric in _METRICS]
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
        row[0].set_ylabel(f"{key}\n{_METRICS[metric]}", fontsize=8)
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
