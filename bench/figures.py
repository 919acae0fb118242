"""Figures of notebook 12, from the tables of ``bench.results`` and ``bench.routing_results``, in the style of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from bench.formulations import OURS_DETACHED
from bench.results import NOT_YET
from bench.routing_results import reference
from capslib.figures import PALETTE, grid, save


def _is_empty(table: pd.DataFrame) -> bool:
    if table.empty:
        print(f"{NOT_YET}: `make bench` measures")
    return table.empty


def ratios(table: pd.DataFrame, name: str, out: Path) -> None:
    """Time and memory of each formulation as multiples of ours, one panel per shape, on a logarithmic axis.

    Args:
        table: ``routing_results.details``.
        name, out: see ``capslib.figures.save``.
    """
    if _is_empty(table):
        return
    both = table[table["direction"] == "forward + backward"].copy()
    memory = both.set_index(["shape", "formulation"])["MiB"].to_dict()
    ours = [memory.get((shape, reference(row))) for shape, row in zip(both["shape"], both["formulation"], strict=True)]
    both["MiB, times ours"] = [
        mine / theirs if mine and theirs else np.nan for mine, theirs in zip(both["MiB"], ours, strict=True)
    ]
    shapes, formulations = list(dict.fromkeys(both["shape"])), list(dict.fromkeys(both["formulation"]))[::-1]
    figure, axes = grid(len(shapes), 2, 6.2, 2.3, sharey=True)
    for axis, shape in zip(axes.flat, shapes, strict=False):
        # A formulation that was not measured at this shape has no marker on its line.
        here = both[both["shape"] == shape].set_index("formulation").reindex(formulations)
        places = np.arange(len(formulations))
        for column, marker, colour, label in (
            ("times ours", "o", PALETTE[0], "time"),
            ("MiB, times ours", "s", PALETTE[1], "memory"),
        ):
            axis.plot(here[column], places, marker, color=colour, label=label, markersize=6)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yticks(places, formulations, fontsize=7)
        axis.set_title(f"({shape})", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("times ours, forward + backward")
    axes.flat[0].legend(fontsize=8)
    save(figure, name, both.drop(columns="direction"), out)


def growth(points: pd.DataFrame, quantity: str, name: str, out: Path) -> None:
    """Cost as one size grows, both axes logarithmic: one column per size, one row per kind of weights.

    Args:
        points: ``routing_results.growth``.
        quantity: "ms" or "MiB".
        name, out: see ``capslib.figures.save``.
    """
    if _is_empty(points):
        return
    letters, kinds = list(dict.fromkeys(points["letter"])), list(dict.fromkeys(points["weights"]))
    figure, axes = grid(len(letters) * len(kinds), len(letters), 2.4, 2.2, sharey=True)
    for panel, axis in enumerate(axes.flat[: len(letters) * len(kinds)]):
        kind, letter = kinds[panel // len(letters)], letters[panel % len(letters)]
        here = points[(points["weights"] == kind) & (points["letter"] == letter)]
        for (formulation, line), colour in zip(here.groupby("formulation", sort=False), PALETTE, strict=False):
            style = "--" if formulation == OURS_DETACHED else "-"
            axis.plot(line["value"], line[quantity], style, marker=".", color=colour, label=formulation, linewidth=1.2)
        axis.set(xscale="log", yscale="log")
        values = sorted(set(here["value"]))
        axis.set_xticks(values, [str(value) for value in values], fontsize=7)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(f"{kind} weights", fontsize=9)
        axis.set_xlabel(letter)
    for axis in axes[:, 0]:
        axis.set_ylabel(quantity)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    save(figure, name, points[["letter", "weights", "value", "formulation", quantity]], out)


def features(table: pd.DataFrame, name: str, out: Path) -> None:
    """Clips per second of every library, one panel per kind of features, bars for one and two threads and processes.

    Args:
        table: ``results.features``.
        name, out: see ``capslib.figures.save``.
    """
    if _is_empty(table):
        return
    installed = table[table["one thread"].str.isdigit()]
    kinds = list(dict.fromkeys(installed["features"]))
    figure, axes = grid(len(kinds), 2, 5.6, 2.8)
    rows = []
    for axis, kind in zip(axes.flat, kinds, strict=False):
        here = installed[installed["features"] == kind].iloc[::-1]
        for i, (way, colour) in enumerate(zip(("one thread", "two threads", "two processes"), PALETTE, strict=False)):
            rates = pd.to_numeric(here[way])
            axis.barh(np.arange(len(here)) + 0.27 * (1 - i), rates, 0.25, color=colour, label=way)
            rows += [
                {"features": kind, "library": library, "way": way, "clips a second": rate}
                for library, rate in zip(here["library"], rates, strict=True)
                if np.isfinite(rate)
            ]
        axis.set_yticks(np.arange(len(here)), here["library"], fontsize=8)
        axis.set_title(kind, fontsize=9)
        axis.set_xlabel("clips of 3 s a second")
    axes.flat[0].legend(fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)


def shares(table: pd.DataFrame, name: str, out: Path) -> None:
    """Share of each kind of layer in the time of an epoch, one bar each.

    Args:
        table: ``results.shares``.
        name, out: see ``capslib.figures.save``.
    """
    if _is_empty(table):
        return
    figure, axes = grid(1, 1, 6.0, 2.2)
    axis, here = axes[0, 0], table.iloc[::-1]
    axis.barh(here["part"], here["share"], color=PALETTE[0])
    axis.set(xlim=(0, 1), xlabel="share of an epoch, forward and backward")
    save(figure, name, table, out)
