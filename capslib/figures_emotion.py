"""Figures of P1 and P2: the plane of WA and UA, routing passes, window capsules along an utterance, input gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.ticker import MaxNLocator

from capslib import statistics, tables
from capslib.figures import PALETTE, _grid, course, save
from capslib.statistics import METRICS
from capslib.study import Runs
from capslib.tables_emotion import values

_MARKERS = "osD^v"
_NOT_YET = "<p>Not run yet.</p>"


def _look(place: int) -> dict[str, str]:
    return {"color": PALETTE[place % 6], "marker": _MARKERS[place % len(_MARKERS)]}


def plane(runs: Runs, systems: Sequence[str], name: str, out: Path) -> None:
    """WA and UA of every system: a panel for P2's Table V on IEMOCAP, and one a corpus with 95% intervals.

    Systems with fewer folds than the others are left out of a corpus' panel, and named in its title.

    Args:
        runs: of the systems.
        systems: names, as in Table V but for the mark of reference 15.
        name, out: see ``figures.save``.
    """
    published, runs = values("P2", "Table V"), statistics.comparable(runs, systems)
    points: dict[str, list[tuple]] = {"published (IEMOCAP)": []}
    short = {key: _incomplete(runs, key, systems) for key in runs.grid.cards}
    for system in systems:
        row = system.removesuffix(" [15]")
        if (row, "WA", "WA") in published:
            wa, ua = published[row, "WA", "WA"], published[row, "UA", "UA"]
            points["published (IEMOCAP)"].append((system, wa, wa, wa, ua, ua, ua))
        for key, card in runs.grid.cards.items():
            records = runs.of(corpus=key, system=system)
            if records and system not in short.get(key, {}):
                cells = [statistics.cell(records, metric) for metric in METRICS.values()]
                point = (system, *(v for c in cells for v in (c.mean, c.low, c.high)))
                left_out = "".join(f"\nwithout {text}" for text in short.get(key, {}).values())
                points.setdefault(f"{key}\n{tables.evidence(card)}{left_out}", []).append(point)
    figure, axes = _grid(len(points), 3, 3.6, 3.4)
    columns = ["system", "WA", "WA low", "WA high", "UA", "UA low", "UA high"]
    rows, handles = [], {}
    for axis, (panel, found) in zip(axes.flat, points.items(), strict=False):
        for system, wa, wa_low, wa_high, ua, ua_low, ua_high in found:
            error = np.nan_to_num([[wa - wa_low, wa_high - wa], [ua - ua_low, ua_high - ua]])
            handles[system] = axis.errorbar(
                wa, ua, xerr=error[0][:, None], yerr=error[1][:, None], elinewidth=0.5, markersize=6, linestyle="none",
                **_look(systems.index(system)),
            )  # fmt: skip
        axis.axline((0.5, 0.5), slope=1, color="grey", linewidth=0.6, linestyle=":")
        _around(axis, found)
        axis.set(xlabel="WA", ylabel="UA")
        axis.set_title(panel, fontsize=9)
        rows += [{"panel": panel.replace("\n", ", ")} | dict(zip(columns, point, strict=True)) for point in found]
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7)
    save(figure, name, pd.DataFrame(rows), out)


def _incomplete(runs: Runs, key: str, systems: Sequence[str]) -> dict[str, str]:
    """Systems that have fewer folds of a corpus than others have, and how many."""
    folds = {s: len({r["config"]["split"] for r in runs.of(corpus=key, system=s)}) for s in systems}
    most = max(folds.values(), default=0)
    return {s: f"{s} ({n} of {most} folds)" for s, n in folds.items() if 0 < n < most}


def _around(axis: object, found: Sequence[tuple]) -> None:
    """Limits around the means and their intervals."""
    for setting, place in ((axis.set_xlim, 1), (axis.set_ylim, 4)):
        ends = [value for point in found for value in point[place : place + 3]]
        room = max(0.02, 0.06 * (np.nanmax(ends) - np.nanmin(ends)))
        setting(np.nanmin(ends) - room, np.nanmax(ends) + room)


def curricula(runs: Runs, systems: Sequence[str], orders: Sequence[str], name: str, out: Path) -> None:
    """Training loss and validation WA an epoch, mean over folds and seeds with the range of single runs: a column a system.

    Orders are drawn on the folds and seeds that all orders of the system have which were run at all.

    Args:
        runs: of the systems.
        systems: names; those of which nothing was run are left out.
        orders: of the segments, beside the curriculum: "no curriculum".
    """
    every = {system: {"curriculum": system} | {order: f"{system}, {order}" for order in orders} for system in systems}
    drawn = [system for system in systems if any(runs.of(system=variant) for variant in every[system].values())]
    found = {r["config"]["corpus"] for r in runs.records if any(r["system"] in every[s].values() for s in drawn)}
    keys = [key for key in runs.grid.cards if key in found]
    if not keys:
        display(HTML(_NOT_YET))
        return
    panels = [(key, metric) for key in keys for metric in ("train_loss", "validation_accuracy")]
    figure, axes = _grid(len(panels) * len(drawn), len(drawn), 2.3, 1.9, sharex=True, sharey="row")
    rows, handles = [], {}
    for (key, metric), line in zip(panels, axes, strict=True):
        for system, axis in zip(drawn, line, strict=True):
            ran = {order: runs.of(corpus=key, system=variant) for order, variant in every[system].items()}
            folds = [{statistics.run_of(r) for r in records} for records in ran.values() if records]
            shared = set.intersection(*folds) if folds else set()
            for place, (order, records) in enumerate(ran.items()):
                records = [r for r in records if statistics.run_of(r) in shared]
                if records:
                    points = course(axis, records, metric, PALETTE[place], order)
                    head = {"corpus": key, "system": system, "order": order, "runs": len(records), "metric": metric}
                    rows += [head | point for point in points]
            if metric == "train_loss" and shared:
                axis.text(0.97, 0.9, f"{len(shared)} runs each", fontsize=7, ha="right", transform=axis.transAxes)
            handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        line[0].set_ylabel(f"{key}\n{'training loss' if metric == 'train_loss' else 'validation WA'}", fontsize=8)
    for system, top, bottom in zip(drawn, axes[0], axes[-1], strict=True):
        top.set_title(system, fontsize=9)
        bottom.set_xlabel("epoch")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)


def over_passes(runs: Runs, passes: Mapping[str, int], name: str, out: Path) -> None:
    """WA and UA over the number of routing passes (P2 Fig. 7), a line a corpus with 95% intervals; published as black dashes.

    Args:
        runs: of the systems.
        passes: by name of system.
        name, out: see ``figures.save``.
    """
    rows, runs = [], statistics.comparable(runs, passes)
    for key in runs.grid.cards:
        for system, count in sorted(passes.items(), key=lambda item: item[1]):
            records = runs.of(corpus=key, system=system)
            for short, metric in METRICS.items():
                cell = statistics.cell(records, metric) if records else None
                if cell:
                    row = {"corpus": key, "metric": short, "passes": count, "mean": cell.mean}
                    rows.append(row | {"low": cell.low, "high": cell.high, "runs": len(records)})
    if not rows:
        display(HTML(_NOT_YET))
        return
    data = pd.DataFrame(rows)
    figure, axes = _grid(2, 2, 3.6, 2.8)
    for axis, short in zip(axes.flat, METRICS, strict=True):
        for place, (key, part) in enumerate(data[data["metric"] == short].groupby("corpus", sort=False)):
            error = np.nan_to_num([part["mean"] - part["low"], part["high"] - part["mean"]])
            x = part["passes"] + 0.05 * place
            axis.errorbar(x, part["mean"], yerr=error, fmt="o-", capsize=3, color=PALETTE[place], label=key)
        for (_, count, metric), value in values("P2", "Fig. 7").items():
            if metric == short:
                axis.plot(int(count), value, "_", color="black", markersize=16, mew=2, label="published (IEMOCAP)")
        axis.set(xlabel="routing passes", ylabel=short, xlim=(0.7, 4.4))
        axis.set_xticks(sorted(set(passes.values())))
    handles = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
    axes[0, 0].legend(handles.values(), handles.keys(), fontsize=7)
    save(figure, name, data, out)


def windows(found: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """Lengths of the window capsules of one utterance, a column a system, and how loud each window is.

    Args:
        found: from ``insight.looks(runs, windows.window_lengths)``; the first of each corpus and system is shown.
        classes: names.
        name, out: see ``figures.save``.
    """
    if not found:
        display(HTML(_NOT_YET))
        return
    first: dict[tuple[str, str], Mapping] = {}
    for look in sorted(found, key=lambda look: look["corpus"]):
        first.setdefault((look["corpus"], look["system"]), look)
    figure, axes = _grid(2 * len(first), len(first), 3.8, 1.9, sharex="col", height_ratios=[3, 2])
    rows = []
    everything = [v for look in first.values() for window in look["clip"]["lengths"] for v in window]
    limits = {"vmin": min(everything), "vmax": max(everything)}  # lengths may all be close to one
    for column, ((corpus, system), look) in enumerate(first.items()):
        clip = look["clip"]
        lengths, seconds = np.array(clip["lengths"]), np.array(clip["frames"]) / 100  # frames of 10 ms
        half = (seconds[1] - seconds[0]) / 2 if len(seconds) > 1 else 0.1
        span = (seconds[0] - half, seconds[-1] + half, 0.5, lengths.shape[1] + 0.5)
        shown = axes[0, column].imshow(
            lengths.T, origin="lower", aspect="auto", extent=span, cmap="viridis", interpolation="none", **limits
        )
        axes[0, column].grid(visible=False)
        told = f"{classes[clip['target']]}, predicted {classes[clip['predicted']]}"
        axes[0, column].set_title(f"{system} on {corpus}\n{told}", fontsize=9)
        axes[1, column].plot(seconds, clip["loudness"], "o-", markersize=3, color=PALETTE[1])
        axes[1, column].set(xlabel="seconds")
        rows += [
            {"corpus": corpus, "system": system, "seconds": t, "capsule": k + 1, "length": v, "mean log power": power}
            for t, window, power in zip(seconds, lengths, clip["loudness"], strict=True)
            for k, v in enumerate(window)
        ]
    axes[0, 0].set_ylabel("window capsule")
    axes[1, 0].set_ylabel("mean log power")
    figure.colorbar(shown, ax=axes[0, -1], label="length")
    save(figure, name, pd.DataFrame(rows), out)


def gradients(found: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """A spectrogram, and below it the size of each system's gradient there (P2 Fig. 8); a column a corpus.

    Args:
        found: from ``insight.looks(runs, gradients.input_gradients)``; the first of each corpus and system is shown.
        classes: names.
        name, out: see ``figures.save``.
    """
    if not found:
        display(HTML(_NOT_YET))
        return
    first = {(look["corpus"], look["system"]): look for look in reversed(found)}
    keys, systems = (list(dict.fromkeys(look[what] for look in found)) for what in ("corpus", "system"))
    figure, axes = _grid((1 + len(systems)) * len(keys), len(keys), 5.0, 2.2, sharex="col", sharey="col")
    rows = []
    for column, key in enumerate(keys):
        clips = {system: first[key, system]["clip"] for system in systems if (key, system) in first}
        clip = next(iter(clips.values()))
        extent = (0, clip["frames"] / 100, 0, clip["bins"] / 100)  # frames of 10 ms, bins of 10 Hz
        drawn = {f"{key}: {classes[clip['target']]}": (clip["spectrogram"], "magma")}
        drawn |= {
            f"{system}, predicted {classes[one['predicted']]}": (one["gradient"], "viridis")
            for system, one in clips.items()
        }
        for axis, (title, (cells, colours)) in zip(axes[:, column], drawn.items(), strict=False):
            image = np.array(cells)
            top = np.percentile(image, 99.5)
            axis.imshow(
                image.T, origin="lower", aspect="auto", extent=extent, cmap=colours, vmax=top, interpolation="none"
            )
            axis.set_title(title, fontsize=9)
            axis.grid(visible=False)
            wide = pd.DataFrame(image, columns=[f"bin {k}" for k in range(image.shape[1])])
            wide.insert(0, "what", f"{key}, {title}")
            rows.append(wide.rename_axis("frame").reset_index())
        axes[-1, column].set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz")
    save(figure, name, pd.concat(rows), out)
