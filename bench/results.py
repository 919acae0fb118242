"""What ``make bench`` measured, as tables and sentences of notebook 12 (routing: ``bench.routing_results``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bench.formulations import EINSUM, NATIVE, OURS
from bench.store import Measured

NOT_YET = "not run yet"


def conditions(measured: Measured) -> str:
    """Which machine, how many threads and repeats, as one line; a trial is called one."""
    entries = [entry for part in measured.values() for entry in part.values()]
    if not entries:
        return "Nothing measured yet: run `make bench`."
    kinds = sorted({f"{e['machine']['processor']}, {e['machine']['cores']} cores" for e in entries})
    threads = sorted({str(e["machine"]["threads"]) for e in entries})
    repeats = sorted({e["repeats"] for e in entries if e["repeats"] > 1 or e["trial"]})
    trial = " A TRIAL on a busy machine: these numbers are not final." if any(e["trial"] for e in entries) else ""
    turns = ", ".join(map(str, repeats))
    return f"{'; '.join(kinds)}; {', '.join(threads)} thread(s); medians of {turns} turns.{trial}"


def provenance(measured: Measured) -> dict[str, str]:
    """Facts about the measurements, for ``tables.provenance``."""
    entries = [entry for part in measured.values() for entry in part.values()]

    def each(field: str) -> str:
        return ", ".join(sorted({str(entry["machine"][field]) for entry in entries})) or "none"

    return {
        "measurements": ", ".join(f"{name}: {len(part)}" for name, part in measured.items()),
        "measured by": each("processor"),
        "cores and threads": f"{each('cores')} and {each('threads')}",
        "measured with torch": each("torch"),
        "measured on": each("date"),
        "measured code": ", ".join(sorted({entry["code"] for entry in entries})) or "none",
        "trials, not final": str(sum(bool(entry["trial"]) for entry in entries)),
    }


def median(row: Mapping, direction: str = "both") -> float:
    """Seconds of a row in one direction; NaN where it failed."""
    return row[direction]["median"] if direction in row else np.nan


def features(measured: Mapping[str, dict]) -> pd.DataFrame:
    """One row per kind and library: clips per second by each way, how many times that ours is, agreement of the values.

    "two cores" takes the best way for each, ours as well: two threads, two processes, or one thread where neither
    helps.

    Args:
        measured: entries of the part "features".
    """
    rows = []
    for kind, entry in measured.items():
        if kind == "decoding":
            continue
        rates = {
            way: {name: entry["clips"] / value["median"] for name, value in seconds.items()}
            for way, seconds in entry["speeds"].items()
        }
        best: dict[str, float] = {}
        for by_library in rates.values():
            for name, rate in by_library.items():
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
    """One row per kind and container: clips decoded per second, and decoding's share in decoding and features.

    Args:
        measured: entries of the part "features".
    """
    rows = []
    decoded = measured.get("decoding")
    for kind, entry in measured.items() if decoded else ():
        if kind == "decoding":
            continue
        computing = entry["speeds"]["one thread"]["capslib"]["median"] / entry["clips"]
        for container, seconds in decoded["speeds"].items():
            reading = seconds["median"] / decoded["clips"]
            cells = {"decoded a second": f"{1 / reading:.0f}", "share": f"{reading / (reading + computing):.0%}"}
            rows.append({"features": kind, "files": container} | cells)
    return pd.DataFrame(rows, columns=["features", "files", "decoded a second", "share"])


def _quartiles(seconds: Mapping[str, float]) -> dict[str, str]:
    return {f"{q} s": f"{seconds[q]:.3f}" for q in ("median", "lower", "upper")}


def epoch(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Seconds of an epoch, ours and as usually written where that was measured: median, quartiles, ratio.

    Args:
        measured: entries of the part "training" or "emotion".
    """
    if "epoch" not in measured:
        return pd.DataFrame([{"training": NOT_YET}])
    rows, entry = [], measured["epoch"]
    usual = entry["seconds"].get("as usually written")
    for name, seconds in entry["seconds"].items():
        facts = {"corpus": entry["corpus"], "clips": entry["clips"], "training": name}
        ratio = {"times as fast as usual": f"{usual['median'] / seconds['median']:.2f}"} if usual else {}
        rows.append(facts | _quartiles(seconds) | ratio)
    return pd.DataFrame(rows)


def steps(measured: Mapping[str, dict]) -> pd.DataFrame:
    """A training step of P2's systems: seconds, ratio to CNN_SeqCap, MiB.

    Args:
        measured: entries of the part "emotion".
    """
    if "step" not in measured:
        return pd.DataFrame([{"system": NOT_YET}])
    entry = measured["step"]
    reference = entry["seconds"]["CNN_SeqCap"]["median"]
    return pd.DataFrame(
        {"system": system}
        | _quartiles(seconds)
        | {"times CNN_SeqCap": f"{seconds['median'] / reference:.2f}"}
        | {"MiB": "not measured" if entry["MiB"][system] is None else f"{entry['MiB'][system]:.0f}"}
        for system, seconds in entry["seconds"].items()
    )


def step_goals(measured: Mapping[str, dict]) -> str:
    """Goals for a step of CNN_SeqCap and of CNN_RecCap, and what was measured, in one sentence."""
    if "step" not in measured:
        return f"A step of CNN_SeqCap: {NOT_YET}."
    entry = measured["step"]
    times = {system: seconds["median"] for system, seconds in entry["seconds"].items()}
    goals = (
        ("a step of CNN_SeqCap in 0.8 s", times["CNN_SeqCap"], 0.8, "s"),
        ("within 1.5 GiB", (entry["MiB"]["CNN_SeqCap"] or np.nan) / 1024, 1.5, "GiB"),
        ("a step of CNN_RecCap in twice that time", times["CNN_RecCap"] / times["CNN_SeqCap"], 2.0, "times"),
    )
    return "; ".join(
        f"{goal}: {value:.2f} {unit}, {'met' if value <= most else 'not met'}" for goal, value, most, unit in goals
    )


def shares(measured: Mapping[str, dict]) -> pd.DataFrame:
    """Share of an epoch by kind of layer, forward and backward together, largest first."""
    shares_ = [share for entry in measured.values() for share in entry.get("shares", {}).items()]
    table = pd.DataFrame(shares_, columns=["part", "share"])
    return table.sort_values("share", ascending=False, ignore_index=True)


def whole(measured: Mapping[str, dict]) -> pd.DataFrame:
    """A whole training and ``make reproduce``: seconds and GiB, once each.

    Args:
        measured: entries of the part "reproduce".
    """
    rows = [
        {
            "what": entry.get("title", name) + (f", {entry['epochs']} epochs, one thread" if "epochs" in entry else ""),
            "seconds": f"{entry['seconds']:.0f}",
            "GiB": f"{entry['GiB']:.2f}" if "GiB" in entry else "",
        }
        for name, entry in measured.items()
    ]
    return pd.DataFrame(rows or [{"what": "a whole training, make reproduce", "seconds": NOT_YET, "GiB": NOT_YET}])


def conclusions(measured: Measured) -> str:
    """What the measurements say, one sentence per part, every number from them."""
    lines = []
    entries = [entry for entry in measured["routing"].values() if "both" in entry["rows"][OURS]]
    if entries:
        times = [median(e["rows"][EINSUM]) / median(e["rows"][OURS]) for e in entries]
        limits = [median(e["rows"][OURS]) / e["limit"]["both"] for e in entries]
        lines.append(
            f"Routing with the full gradient is {min(times):.1f} to {max(times):.1f} times as fast as the einsum "
            f"formulation, and takes {min(limits):.1f} to {max(limits):.1f} times the estimated limit."
        )
    compiled = [entry["rows"] for entry in entries if "both" in entry["rows"].get(NATIVE, {})]
    if compiled:
        times = [median(rows[EINSUM]) / median(rows[NATIVE]) for rows in compiled]
        gains = [median(rows[OURS]) / median(rows[NATIVE]) for rows in compiled]
        lines.append(
            f"With the optional C++ passes, for unshared weights, it is {min(times):.1f} to {max(times):.1f} times as "
            f"fast; they are {min(gains):.1f} to {max(gains):.1f} times as fast as the default."
        )
    for kind, entry in measured["features"].items():
        one = entry["speeds"].get("one thread", {})
        if "librosa" in one and "capslib" in one:
            ratio = one["librosa"]["median"] / one["capslib"]["median"]
            lines.append(f"{kind}: {ratio:.1f} times as many clips a second as librosa on one core.")
    for entry in measured["training"].values():
        ratio = entry["seconds"]["as usually written"]["median"] / entry["seconds"]["capslib"]["median"]
        part, share = max(entry["shares"].items(), key=lambda pair: pair[1])
        lines.append(
            f"An epoch of CAPS is {ratio:.1f} times as fast as usually written; {part} takes {share:.0%} of ours."
        )
    return "\n".join(lines) or "Nothing measured yet: run `make bench`."
