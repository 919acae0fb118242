"""What ``make bench`` measured of routing, as tables of notebook 12.

``measured`` is everywhere the entries of the part "routing" of ``store.read``, by name of a shape, unless said
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bench.formulations import DETACHED, EINSUM, HEINSEN, NATIVE, OURS, OURS_DETACHED, ROWS
from bench.results import NOT_YET, median
from bench.store import Measured


def reference(row: str) -> str:
    """The row of ours that another is fairly compared with: the one with the same gradient."""
    return OURS_DETACHED if row in DETACHED else OURS


def comparison(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Every formulation at every shape: ms / MiB of forward and backward, and the ratio to ours in the same run.

    Rows with detached inner iterations are compared with ours of that kind, all others with our full gradient. Last the
    estimated limit, and our time as a multiple of it.
    """
    table = []
    for row in ROWS:
        if not any(row in entry["rows"] for entry in measured.values()):
            continue
        cells: dict[str, str] = {"formulation": row}
        for shape, entry in measured.items():
            result = entry["rows"].get(row)
            if result is None or "failed" in result:
                cells |= {f"({shape}) ms / MiB": "" if result is None else "failed", f"({shape}) ratio": ""}
                continue
            ratio = median(result) / median(entry["rows"][reference(row)])
            extra = "?" if result["MiB both"] is None else f"{result['MiB both']:.0f}"
            cells[f"({shape}) ms / MiB"] = f"{1e3 * median(result):.1f} / {extra}"
            cells[f"({shape}) ratio"] = f"{ratio:.2f}"
        table.append(cells)
    limits = (("full gradient", "both", OURS), ("inner iterations detached", "detached", OURS_DETACHED))
    for title, direction, ours in limits:
        cells = {"formulation": f"estimated limit, {title}"}
        times = {"formulation": f"{ours}: times the limit"}
        for shape, entry in measured.items():
            least, mine = entry["limit"][direction], median(entry["rows"][ours])
            cells |= {f"({shape}) ms / MiB": f"{1e3 * least:.1f}", f"({shape}) ratio": f"{least / mine:.2f}"}
            times |= {f"({shape}) ms / MiB": "", f"({shape}) ratio": f"{mine / least:.1f}"}
        table += [cells, times]
    return pd.DataFrame(table)


def details(measured: Mapping[str, dict]) -> pd.DataFrame:
    """One row per formulation, shape and direction.

    Returns:
        Median and quartiles in ms, extra MiB, time as a multiple of ours, largest difference from our outputs.
    """
    rows = []
    for shape, entry in measured.items():
        for name, result in entry["rows"].items():
            for direction in ("forward", "both"):
                if direction not in result:
                    continue
                ours = median(entry["rows"][reference(name)], direction)
                rows.append(
                    {"shape": shape, "formulation": name, "direction": direction.replace("both", "forward + backward")}
                    | {f"{q} ms": 1e3 * result[direction][q] for q in ("median", "lower", "upper")}
                    | {"MiB": result[f"MiB {direction}"], "times ours": median(result, direction) / ours}
                    | {"largest difference": result["difference"]}
                )
    return pd.DataFrame(rows)


def goals(measured: Mapping[str, dict], ours: str = OURS) -> pd.DataFrame:
    """The goals that were set before anything was measured, and what was measured, shape by shape.

    Args:
        measured: entries of the part "routing".
        ours: which row of ours; at shapes where it was not measured, our default.
    """
    table = []
    for title, value, at_least, bounds in _GOALS:
        cells = {"goal, full gradient": title}
        for shape, entry in measured.items():
            rows = entry["rows"]
            reached = value(rows.get(ours, rows[OURS]), entry)
            bound = bounds.get(shape, bounds[""])
            met = reached >= bound if at_least else reached <= bound
            met_or_not = f"{reached:.2f}, {'met' if met else 'not met'}"
            cells[f"({shape})"] = "not measured" if np.isnan(reached) else met_or_not
        table.append(cells)
    return pd.DataFrame(table)


def _memory_ratio(row: Mapping, entry: Mapping) -> float:
    mine, theirs = row.get("MiB both"), entry["rows"][EINSUM].get("MiB both")
    return mine / theirs if mine is not None and theirs else np.nan


# Title, value of our row in an entry, whether it should be at least (or at most) the bound, bounds by shape.
_GOALS = (
    (
        "times faster than the einsum formulation: at least 4, (c') 1.5",
        lambda row, entry: median(entry["rows"][EINSUM]) / median(row),
        True,
        {"": 4.0, "c'": 1.5},
    ),
    (
        "time over that of Heinsen's rule: at most 1",
        lambda row, entry: median(row) / median(entry["rows"][HEINSEN]),
        False,
        {"": 1.0},
    ),
    ("memory over the einsum formulation's: at most 0.5", _memory_ratio, False, {"": 0.5}),
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
    """One row per measured point: letter, kind of weights, value, formulation, ms and MiB of forward and backward.

    Args:
        measured: entries of the part "growth".
    """
    return pd.DataFrame(
        {
            "letter": entry["letter"],
            "weights": "shared" if entry["middle"]["shared"] else "unshared",
            "value": point["value"],
            "formulation": row,
            "ms": 1e3 * median(result),
            "MiB": result.get("MiB both"),
        }
        for entry in measured.values()
        for point in entry["points"]
        for row, result in point["rows"].items()
    )


def exponents(points: pd.DataFrame, last: int = 3) -> pd.DataFrame:
    """Exponent of the time in each size: slope of log time over log size through the ``last`` points of ``growth``."""
    rows = []
    groups = points.groupby(["weights", "formulation"], sort=False) if len(points) else ()
    for (weights, formulation), group in groups:
        cells = {"weights": weights, "formulation": formulation}
        for letter, line in group.groupby("letter", sort=False):
            tail = line.sort_values("value").tail(last)
            cells[letter] = f"{np.polyfit(np.log(tail['value']), np.log(tail['ms']), 1)[0]:.2f}"
        rows.append(cells)
    return pd.DataFrame(rows)


def on_gpus(all_gpus: Mapping[str, Measured], titles: Mapping[str, str]) -> pd.DataFrame:
    """Routing on every GPU that measured, beside the ceilings of the same run; one row per shape, also where none did.

    Achieved rates count the bytes and FLOPs of a kernel that keeps votes on the chip (``bench.routing.fused``).

    Args:
        all_gpus: see ``store.read_gpus``.
        titles: of each shape.
    """
    rows = []
    for kind, measured in all_gpus.items() or [("no GPU", {})]:
        for shape, title in titles.items():
            entry = measured.get("routing", {}).get(shape)
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
    others = (OURS, NATIVE, HEINSEN, *DETACHED)
    eager = [median(row) for name, row in entry["rows"].items() if name not in others and "both" in row]
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
