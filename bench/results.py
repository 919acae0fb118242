"""What ``make bench`` measured, as tables: read from ``data/measured``, nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from capslib import paths
from capslib.errors import CapslibError, choose

OURS = "capslib, full gradient"
OURS_DETACHED = "capslib, inner iterations detached"
PEER = "votes by one einsum, routing by einsum"
PORT = "votes by matmul of expanded operands"
PORT_DETACHED = f"{PORT}, inner iterations detached"
HEINSEN = "another rule: Heinsen 2022"
NATIVE = "capslib, full gradient, C++ passes"
DETACHED = (OURS_DETACHED, PORT_DETACHED)
PARTS = ("routing", "growth", "features", "training", "emotion", "reproduce")
NOT_YET = "not run yet"


def folder() -> Path:
    """Where measurements are kept: a folder a kind of machine, a file a part."""
    return paths.root() / "data" / "measured"


def entries(file: Path) -> dict[str, dict]:
    """What a part's file holds, by name; nothing if it is not there yet.

    Raises:
        CapslibError: if it is not what ``make bench`` writes.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CapslibError(f"{paths.shown(file)} is not readable ({error}): delete it and run `make bench`") from None
    if not isinstance(found, dict):
        raise CapslibError(f"{paths.shown(file)} holds no measurements: delete it and run `make bench`")
    return found


def read(machine: str, within: Path | None = None) -> dict[str, dict[str, dict]]:
    """All that one kind of machine measured: by part, then by entry.

    Args:
        machine: a folder of ``data/measured``, "two-core-cpu".
        within: instead of ``data/measured``.
    Raises:
        CapslibError: for a machine without measurements, naming those that have some.
    """
    within = within or folder()
    known = sorted(path.name for path in within.iterdir() if path.is_dir()) if within.is_dir() else []
    if not known:
        raise CapslibError("nothing has been measured yet: run `make bench`")
    choose(machine, known, "machine")
    return {part: entries(within / machine / f"{part}.json") for part in PARTS}


def gpus(within: Path | None = None) -> dict[str, dict[str, dict[str, dict]]]:
    """``read`` of every kind of machine that measured on a GPU, by kind."""
    within = within or folder()
    all_ = {path.name: read(path.name, within) for path in sorted(within.glob("*")) if path.is_dir()}
    return {kind: parts for kind, parts in all_.items() if any(e["machine"]["device"] == "cuda" for e in _each(parts))}


def _each(parts: Mapping[str, Mapping[str, dict]]) -> Iterator[dict]:
    for found in parts.values():
        yield from found.values()


def first_line(parts: Mapping[str, Mapping[str, dict]]) -> str:
    """Which machine, how many threads and repeats; a trial is called one."""
    found = list(_each(parts))
    if not found:
        return "Nothing measured yet: run `make bench`."
    kinds = sorted({f"{e['machine']['processor']}, {e['machine']['cores']} cores" for e in found})
    threads = sorted({str(e["machine"]["threads"]) for e in found})
    repeats = sorted({e["repeats"] for e in found if e["repeats"] > 1 or e["trial"]})
    trial = " A TRIAL on a busy machine: these numbers are not final." if any(e["trial"] for e in found) else ""
    return (
        f"{'; '.join(kinds)}; {', '.join(threads)} thread(s); medians of {', '.join(map(str, repeats))} turns.{trial}"
    )


def provenance(parts: Mapping[str, Mapping[str, dict]]) -> dict[str, str]:
    """Facts about the measurements, for ``tables.provenance``."""
    found = list(_each(parts))

    def each(field: str) -> str:
        return ", ".join(sorted({str(e["machine"][field]) for e in found})) or "none"

    return {
        "measurements": ", ".join(f"{part}: {len(parts[part])}" for part in parts),
        "measured by": each("processor"),
        "cores and threads": f"{each('cores')} and {each('threads')}",
        "measured with torch": each("torch"),
        "measured on": each("date"),
        "measured code": ", ".join(sorted({e["code"] for e in found})) or "none",
        "trials, not final": str(sum(bool(e["trial"]) for e in found)),
    }


def median(row: Mapping, direction: str = "both") -> float:
    """Seconds of a row in one direction; NaN where it failed."""
    return row[direction]["median"] if direction in row else np.nan


def features(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Clips a second of every library one way and another, how many times that ours is, and how far the values agree.

    "two cores" takes the best way for each, ours as well: two threads, two processes, or one thread where neither helps.
    """
    rows = []
    for kind, entry in measured.items():
        if kind == "decoding":
            continue
        best: dict[str, float] = {}
        rates = {
            way: {n: entry["clips"] / s["median"] for n, s in found.items()} for way, found in entry["speeds"].items()
        }
        for found in rates.values():
            for name, rate in found.items():
                best[name] = max(best.get(name, 0.0), rate)
        for name, one in rates["one thread"].items():
            agrees = entry["agreement"][name]
            rows.append(
                {"features": kind, "library": name}
                | {way: f"{rates[way][name]:.0f}" if name in rates[way] else "" for way in rates}
                | {"ours, times that: one core": f"{rates['one thread']['capslib'] / one:.2f}"}
                | {"two cores": f"{best['capslib'] / best[name]:.2f}", "frames": str(agrees["frames"])}
                | {"correlation (median)": f"{agrees['median']:.4f}", "lowest": f"{agrees['lowest']:.4f}"}
            )
        absent = {"features": kind, "two threads": "", "two processes": "", "one thread": "not installed"}
        rows += [absent | {"library": name} for name in entry["missing"]]
    return pd.DataFrame(rows).fillna("")


def decoding(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Clips a second that are decoded from each container, and decoding's share of decoding and our features, one thread."""
    found = measured.get("decoding")
    rows = []
    for kind, entry in measured.items() if found else ():
        if kind == "decoding":
            continue
        computing = entry["speeds"]["one thread"]["capslib"]["median"] / entry["clips"]
        for container, seconds in found["speeds"].items():
            reading = seconds["median"] / found["clips"]
            share = f"{reading / (reading + computing):.0%}"
            rows.append(
                {"features": kind, "files": container, "decoded a second": f"{1 / reading:.0f}", "share": share}
            )
    return pd.DataFrame(rows, columns=["features", "files", "decoded a second", "share"])


def epoch(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Seconds of an epoch as usually written, where that was measured, and as here: median, quartiles, ratio."""
    if "epoch" not in measured:
        return pd.DataFrame([{"training": NOT_YET}])
    rows, entry = [], measured["epoch"]
    usual = entry["seconds"].get("as usually written")
    for name, seconds in entry["seconds"].items():
        numbers = {f"{q} s": f"{seconds[q]:.3f}" for q in ("median", "lower", "upper")}
        about = {"corpus": entry["corpus"], "clips": entry["clips"], "training": name}
        ratio = {"times as fast as usual": f"{usual['median'] / seconds['median']:.2f}"} if usual else {}
        rows.append(about | numbers | ratio)
    return pd.DataFrame(rows)


def steps(measured: Mapping[str, dict]) -> pd.DataFrame:
    """A training step of P2's systems: seconds, MiB, and times those of CNN_SeqCap."""
    if "step" not in measured:
        return pd.DataFrame([{"system": NOT_YET}])
    entry = measured["step"]
    reference = entry["seconds"]["CNN_SeqCap"]["median"]
    return pd.DataFrame(
        [
            {"system": system}
            | {f"{q} s": f"{seconds[q]:.3f}" for q in ("median", "lower", "upper")}
            | {"times CNN_SeqCap": f"{seconds['median'] / reference:.2f}"}
            | {"MiB": "not measured" if entry["MiB"][system] is None else f"{entry['MiB'][system]:.0f}"}
            for system, seconds in entry["seconds"].items()
        ]
    )


def step_goals(measured: Mapping[str, dict]) -> str:
    """What was asked of a step of CNN_SeqCap and of CNN_RecCap, and what came out, one sentence."""
    if "step" not in measured:
        return f"A step of CNN_SeqCap: {NOT_YET}."
    entry = measured["step"]
    times = {system: seconds["median"] for system, seconds in entry["seconds"].items()}
    goals = (
        ("a step of CNN_SeqCap in 0.8 s", times["CNN_SeqCap"], 0.8, "s"),
        ("within 1.5 GiB", (entry["MiB"]["CNN_SeqCap"] or np.nan) / 1024, 1.5, "GiB"),
        ("a step of CNN_RecCap in twice that time", times["CNN_RecCap"] / times["CNN_SeqCap"], 2.0, "times"),
    )
    said = [f"{goal}: {value:.2f} {unit}, {'met' if value <= most else 'not met'}" for goal, value, most, unit in goals]
    return "; ".join(said)


def shares(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Share of an epoch by kind of layer, forward and backward together, largest first."""
    rows = [
        {"part": part, "share": share} for entry in measured.values() for part, share in entry.get("shares", {}).items()
    ]
    return pd.DataFrame(rows, columns=["part", "share"]).sort_values("share", ascending=False, ignore_index=True)


def whole(measured: Mapping[str, dict]) -> pd.DataFrame:
    """A whole training and ``make reproduce``: seconds and GiB, once each."""
    rows = [
        {
            "what": entry.get("title", name) + (f", {entry['epochs']} epochs, one thread" if "epochs" in entry else ""),
            "seconds": f"{entry['seconds']:.0f}",
            "GiB": f"{entry['GiB']:.2f}" if "GiB" in entry else "",
        }
        for name, entry in measured.items()
    ]
    return pd.DataFrame(rows or [{"what": "a whole training, make reproduce", "seconds": NOT_YET, "GiB": NOT_YET}])


def meaning(parts: Mapping[str, Mapping[str, dict]]) -> str:
    """What the measurements say, a sentence a part, every number from them."""
    lines = []
    found = [entry for entry in parts["routing"].values() if "both" in entry["rows"][OURS]]
    if found:
        times = [median(e["rows"][PEER]) / median(e["rows"][OURS]) for e in found]
        over = [median(e["rows"][OURS]) / e["limit"]["both"] for e in found]
        lines.append(
            f"Routing with the full gradient is {min(times):.1f} to {max(times):.1f} times as fast as the einsum formulation, and takes "
            f"{min(over):.1f} to {max(over):.1f} times the estimated limit."
        )
    compiled = [entry for entry in found if "both" in entry["rows"].get(NATIVE, {})]
    if compiled:
        times = [median(e["rows"][PEER]) / median(e["rows"][NATIVE]) for e in compiled]
        gain = [median(e["rows"][OURS]) / median(e["rows"][NATIVE]) for e in compiled]
        lines.append(
            f"With the optional C++ passes, for a matrix an input, it is {min(times):.1f} to {max(times):.1f} times as fast; they are "
            f"{min(gain):.1f} to {max(gain):.1f} times as fast as the default."
        )
    for kind, entry in parts["features"].items():
        one = entry["speeds"].get("one thread", {})
        if "librosa" in one and "capslib" in one:
            ratio = one["librosa"]["median"] / one["capslib"]["median"]
            lines.append(f"{kind}: {ratio:.1f} times as many clips a second as librosa on one core.")
    for entry in parts["training"].values():
        ratio = entry["seconds"]["as usually written"]["median"] / entry["seconds"]["capslib"]["median"]
        part, share = max(entry["shares"].items(), key=lambda pair: pair[1])
        lines.append(
            f"An epoch of CAPS is {ratio:.1f} times as fast as usually written; {part} takes {share:.0%} of ours."
        )
    return "\n".join(lines) or "Nothing measured yet: run `make bench`."
