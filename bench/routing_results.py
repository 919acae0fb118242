"""The tables of notebook 12 that are about routing, from what ``make bench`` measured (see ``capslib.speed``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bench.results import DETACHED, HEINSEN, NATIVE, NOT_YET, OURS, OURS_DETACHED, PEER, PORT, PORT_DETACHED, median


def _reference(row: str) -> str:
    """The row of ours that another is fairly compared with: the same gradient."""
    return OURS_DETACHED if row in DETACHED else OURS


def compared(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Every formulation at every shape: forward and backward in ms / MiB, and beside it the ratio to ours in the same run.

    Rows with detached inner iterations are compared with ours of that kind, all others with our full gradient. Last the
    estimated limit, and our time as a multiple of it.
    """
    names = {row for entry in measured.values() for row in entry["rows"]}
    table = []
    for row in sorted(names, key=lambda row: _ORDER.index(row) if row in _ORDER else len(_ORDER)):
        cells: dict[str, str] = {"formulation": row}
        for shape, entry in measured.items():
            found = entry["rows"].get(row)
            if found is None or "failed" in found:
                cells |= {f"({shape}) ms / MiB": "" if found is None else "failed", f"({shape}) ratio": ""}
                continue
            ratio = median(found) / median(entry["rows"][_reference(row)])
            extra = "?" if found["MiB both"] is None else f"{found['MiB both']:.0f}"
            cells[f"({shape}) ms / MiB"] = f"{1e3 * median(found):.1f} / {extra}"
            cells[f"({shape}) ratio"] = f"{ratio:.2f}"
        table.append(cells)
    for title, direction, ours in _LIMITS:
        cells = {"formulation": f"estimated limit, {title}"}
        times = {"formulation": f"{ours}: times the limit"}
        for shape, entry in measured.items():
            least, mine = entry["limit"][direction], median(entry["rows"][ours])
            cells |= {f"({shape}) ms / MiB": f"{1e3 * least:.1f}", f"({shape}) ratio": f"{least / mine:.2f}"}
            times |= {f"({shape}) ms / MiB": "", f"({shape}) ratio": f"{mine / least:.1f}"}
        table += [cells, times]
    return pd.DataFrame(table)


_ORDER = (OURS, NATIVE, PEER, PORT, "votes by broadcast multiply and sum", HEINSEN, OURS_DETACHED, PORT_DETACHED)
_LIMITS = (("full gradient", "both", OURS), ("inner iterations detached", "detached", OURS_DETACHED))


def everything(measured: Mapping[str, dict]) -> pd.DataFrame:
    """One row a formulation, shape and direction: median and quartiles in ms, extra MiB, ratio to ours, largest difference."""
    rows = []
    for shape, entry in measured.items():
        for name, found in entry["rows"].items():
            for direction in ("forward", "both"):
                if direction not in found:
                    continue
                ours = median(entry["rows"][_reference(name)], direction)
                quantiles = {f"{q} ms": 1e3 * found[direction][q] for q in ("median", "lower", "upper")}
                rows.append(
                    {"shape": shape, "formulation": name, "direction": direction.replace("both", "forward + backward")}
                    | quantiles
                    | {"MiB": found[f"MiB {direction}"], "times ours": median(found, direction) / ours}
                    | {"largest difference": found["difference"]}
                )
    return pd.DataFrame(rows)


def goals(measured: Mapping[str, dict], ours: str = OURS) -> pd.DataFrame:
    """What was asked for before anything was measured, and what came out, shape by shape.

    Args:
        measured: entries of the part "routing".
        ours: which row of ours; at shapes where it was not measured, our default.
    """
    table = []
    for title, value, at_least, bounds in _GOALS:
        cells = {"goal, full gradient": title}
        for shape, entry in measured.items():
            rows = entry["rows"]
            found = value(rows.get(ours, rows[OURS]), entry)
            bound = bounds.get(shape, bounds[""])
            met = found >= bound if at_least else found <= bound
            cells[f"({shape})"] = "not measured" if np.isnan(found) else f"{found:.2f}, {'met' if met else 'not met'}"
        table.append(cells)
    return pd.DataFrame(table)


def _memory(row: Mapping, entry: Mapping) -> float:
    mine, theirs = row.get("MiB both"), entry["rows"][PEER].get("MiB both")
    return mine / theirs if mine is not None and theirs else np.nan


# Title, value of our row in an entry, whether it should be at least (or at most) the bound, bounds by shape.
_GOALS = (
    (
        "times faster than the einsum formulation: at least 4, (c') 1.5",
        lambda row, entry: median(entry["rows"][PEER]) / median(row),
        True,
        {"": 4.0, "c'": 1.5},
    ),
    (
        "time over that of Heinsen's rule: at most 1",
        lambda row, entry: median(row) / median(entry["rows"][HEINSEN]),
        False,
        {"": 1.0},
    ),
    ("memory over the einsum formulation's: at most 0.5", _memory, False, {"": 0.5}),
    (
        "time over the estimated limit: at most 3",
        lambda row, entry: median(row) / entry["limit"]["both"],
        False,
        {"": 3.0},
    ),
)


def verdict(table: pd.DataFrame) -> str:
    """How many of the goals are met, in one sentence, from ``goals``."""
    cells = table.iloc[:, 1:].to_numpy().ravel().tolist()
    met = sum(cell.endswith(", met") for cell in cells)
    missed = sum(cell.endswith(", not met") for cell in cells)
    return f"of {len(cells)} goals {met} met, {missed} not met, {len(cells) - met - missed} not measured."


def growth(measured: Mapping[str, dict]) -> pd.DataFrame:
    """One row a measured point: letter, kind of matrices, value, formulation, ms and MiB of forward and backward."""
    return pd.DataFrame(
        {
            "letter": entry["letter"],
            "matrices": name.split(", ")[1],
            "value": point["value"],
            "formulation": row,
            "ms": 1e3 * median(found),
            "MiB": found.get("MiB both"),
        }
        for name, entry in measured.items()
        for point in entry["points"]
        for row, found in point["rows"].items()
    )


def slopes(points: pd.DataFrame, last: int = 3) -> pd.DataFrame:
    """Exponent of the time in each size: slope of log time over log size through the ``last`` points of ``growth``."""
    rows = []
    groups = points.groupby(["matrices", "formulation"], sort=False) if len(points) else ()
    for (matrices, formulation), group in groups:
        cells = {"matrices": matrices, "formulation": formulation}
        for letter, line in group.groupby("letter", sort=False):
            tail = line.sort_values("value").tail(last)
            cells[letter] = f"{np.polyfit(np.log(tail['value']), np.log(tail['ms']), 1)[0]:.2f}"
        rows.append(cells)
    return pd.DataFrame(rows)


def on_gpu(all_gpus: Mapping[str, Mapping[str, Mapping[str, dict]]], names: Mapping[str, str]) -> pd.DataFrame:
    """Routing on every GPU that measured, against the ceilings of the same run; one row a shape that says so if none did.

    Achieved rates count the bytes and FLOPs of a kernel that keeps votes on the chip (``bench.routing.fused``).

    Args:
        all_gpus: see ``gpus``.
        names: title of each shape.
    """
    rows = []
    for kind, parts in all_gpus.items() or [("no GPU", {})]:
        for shape, title in names.items():
            entry = parts.get("routing", {}).get(shape)
            cells: dict[str, str] = {"GPU": kind, "shape": f"({shape}) {title}"}
            rows.append(cells | (_gpu_row(entry) if entry else dict.fromkeys(_GPU_COLUMNS, NOT_YET)))
    return pd.DataFrame(rows)


_GPU_COLUMNS = (
    "forward ms",
    "forward + backward ms",
    "times faster than the best eager formulation",
    "extra MiB",
    "size of the votes MiB",
    "GB/s",
    "TFLOP/s",
    "share of the nearer ceiling",
)


def _gpu_row(entry: Mapping) -> dict[str, str]:
    ours, shape = entry["rows"][OURS], entry["shape"]
    eager = [
        median(row)
        for name, row in entry["rows"].items()
        if name not in (OURS, NATIVE, HEINSEN, *DETACHED) and "both" in row
    ]
    moved, flops = (amount / median(ours) for amount in entry["fused"]["both"])
    ceilings = entry["ceilings"]
    share = max(moved / ceilings["copy"], flops / ceilings["matmul"])
    votes = 4 * shape["B"] * shape["I"] * shape["J"] * shape["D"] / 2**20
    values = (
        f"{1e3 * median(ours, 'forward'):.3f}",
        f"{1e3 * median(ours):.3f}",
        f"{min(eager) / median(ours):.1f}" if eager else "",
        f"{ours['MiB both']:.1f}",
        f"{votes:.1f}",
        f"{moved / 1e9:.0f}",
        f"{flops / 1e12:.2f}",
        f"{share:.0%}",
    )
    return dict(zip(_GPU_COLUMNS, values, strict=True))
