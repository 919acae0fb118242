"""Tables of P1 and P2: WA and UA, confusion matrices and paired tests, published beside ours.

WA (weighted accuracy) is accuracy, UA (unweighted accuracy) the mean recall of the classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

from capslib import paths, statistics, tables
from capslib.statistics import METRICS, NOT_YET
from capslib.study import Runs
from capslib.tables import evidence, show

EMOTIONS = ("Neutral", "Angry", "Happy", "Sad")


@cache
def values(paper: str, table: str) -> Mapping[tuple[str, str, str], float]:
    """Numbers of a paper's table by row, column and metric; percents as fractions.

    Args:
        paper: "P1" or "P2".
        table: "Table IV".
    """
    everything = pd.read_csv(paths.root() / "data" / "published.csv", dtype=str, keep_default_na=False)
    ours = everything[(everything["paper"] == paper) & (everything["table"] == table)]
    return {
        (r["row"], r["column"], r["metric"]): float(r["value"]) / (100 if r["unit"] == "percent" else 1)
        for _, r in ours.iterrows()
    }


def _made(runs: Runs, key: str, records: Sequence[dict]) -> str:
    if not records:
        return ""
    folds = len({r["config"]["split"] for r in records})
    seeds = len({r["config"]["seed"] for r in records})
    return f"{folds} of {len(runs.grid.cards[key]['splits'])} folds, {seeds} seed(s), {len(records)} runs"


def extent(runs: Runs, systems: Collection[str] | None = None) -> str:
    """Seeds of each corpus that all of these systems have, for a caption."""
    told, runs = [], statistics.comparable(runs, systems)
    for key in runs.grid.cards:
        seeds = {r["config"]["seed"] for r in runs.of(corpus=key) if systems is None or r["system"] in systems}
        several = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        told.append(f"{key} {several if seeds else NOT_YET}")
    return f"Ours: {', '.join(told) or 'no corpus here'}."


def scores(runs: Runs, places: Mapping[str, tuple[str, str]], paper: str, table: str, name: str, out: Path) -> HTML:
    """WA and UA of systems as published, and ours below each, one row a corpus.

    Args:
        runs: of the systems.
        places: row and column of the paper's table, by name of our system; the column "" where columns are WA and UA.
            A system that the paper does not have stands at ("", "").
        paper, table: "P2", "Table V".
        name, out: see ``tables.show``.
    """
    published, rows, shown = values(paper, table), [], statistics.comparable(runs, places)
    for system, (row, column) in places.items():
        cells = {metric: published.get((row, column or metric, metric)) for metric in METRICS}
        if any(cells.values()):
            told = {metric: "" if value is None else f"{value:.3f}" for metric, value in cells.items()}
            rows.append({"system": system, "corpus": "IEMOCAP", "evidence": "published", **told, "runs": ""})
        for key, card in runs.grid.cards.items():
            records = shown.of(corpus=key, system=system)
            told = {m: str(statistics.cell(records, ours)) if records else NOT_YET for m, ours in METRICS.items()}
            head = {"system": system, "corpus": key, "evidence": evidence(card)}
            rows.append(head | told | {"runs": _made(runs, key, records)})
    caption = (
        f"{paper} {table}: test WA and UA as published on IEMOCAP, and ours as mean and 95% interval, of WA over speakers, "
        f"of UA over folds, on the seeds that all systems have. {extent(runs, places)} {len(runs.grid) - len(runs.missing)} of {len(runs.grid)} runs of "
        f"this notebook, profile {runs.grid.profile}."
    )
    return show(pd.DataFrame(rows), name, caption, out)


def confusions(runs: Runs, system: str, paper: str, table: str, name: str, out: Path) -> HTML:
    """Recall matrix of a system as published, and ours: test clips of all folds and seeds pooled, one row a true class."""
    published, rows = values(paper, table), []
    for true in EMOTIONS:
        told = {f"predicted {other}": f"{published[true, other, 'confusion']:.3f}" for other in EMOTIONS}
        rows.append({"true": true, "corpus": "IEMOCAP", "evidence": "published", **told, "clips": ""})
        for key, card in runs.grid.cards.items():
            records = runs.of(corpus=key, system=system)
            told, clips = dict.fromkeys((f"predicted {other}" for other in EMOTIONS), NOT_YET), ""
            if records:
                place = {label: i for i, label in enumerate(records[0]["classes"])}
                pooled = np.sum([record["confusion"] for record in records], axis=0)
                counts = pooled[place[true.lower()]] if true.lower() in place else np.zeros(0, int)
                clips = f"{counts.sum()}"
                told = {
                    f"predicted {other}": f"{counts[place[other.lower()]] / counts.sum():.3f}" if counts.sum() else ""
                    for other in EMOTIONS
                    if other.lower() in place
                }
            rows.append({"true": true, "corpus": key, "evidence": evidence(card), **told, "clips": clips})
    caption = (
        f"{paper} {table}, {system}: share of the clips of each true class that is predicted as each class. Published on IEMOCAP; "
        f"ours below it, all folds and seeds pooled. {extent(runs, [system])}"
    )
    return show(pd.DataFrame(rows), name, caption, out)


def pooled(runs: Runs, systems: Sequence[str]) -> pd.DataFrame:
    """WA and UA as the papers count them: test clips of all folds together, mean over the seeds that all systems of a corpus
    have; one row a corpus and system, behind that of always telling the commonest class."""
    rows, runs = [], statistics.comparable(runs, systems)
    for key in runs.grid.cards:
        for system in systems:
            by_seed: dict[int, list[np.ndarray]] = {}
            for record in runs.of(corpus=key, system=system):
                by_seed.setdefault(record["config"]["seed"], []).append(np.array(record["confusion"]))
            counts = [np.sum(folds, axis=0) for folds in by_seed.values()]
            if counts and not any(row["corpus"] == key for row in rows):
                rows.append(_commonest(key, counts[0]))
            if counts:
                right = [np.diag(c) for c in counts]
                recalls = [r[c.sum(1) > 0] / c.sum(1)[c.sum(1) > 0] for r, c in zip(right, counts, strict=True)]
                rows.append(
                    {"corpus": key, "system": system, "seeds": len(counts), "clips of a seed": f"{counts[0].sum()}"}
                    | {"WA": f"{np.mean([r.sum() / c.sum() for r, c in zip(right, counts, strict=True)]):.3f}"}
                    | {"UA": f"{np.mean([recall.mean() for recall in recalls]):.3f}"}
                )
    return pd.DataFrame(rows or [{"corpus": "", "system": NOT_YET}])


def _commonest(key: str, counts: np.ndarray) -> dict:
    of_class = counts.sum(1)
    share, ua = of_class.max() / of_class.sum(), 1 / (of_class > 0).sum()
    head = {"corpus": key, "system": "always the commonest class", "seeds": "", "clips of a seed": f"{of_class.sum()}"}
    return head | {"WA": f"{share:.3f}", "UA": f"{ua:.3f}"}


def per_fold(runs: Runs, systems: Sequence[str]) -> pd.DataFrame:
    """Test clips of each class in every fold, and each system's WA there, mean over the seeds that all have."""
    shown, rows = statistics.comparable(runs, systems), {}
    for record in shown.records:
        place = (record["config"]["corpus"], record["config"]["split"])
        counts = zip(record["classes"], np.sum(record["confusion"], axis=1), strict=True)
        row = rows.setdefault(place, {"corpus": place[0], "fold": place[1]} | {f"{n} clips": int(c) for n, c in counts})
        row.setdefault(record["system"], []).append(record["test"]["accuracy"])
    told = [
        {name: cell for name, cell in row.items() if name not in systems}
        | {s: f"{np.mean(row[s]):.3f}" if s in row else NOT_YET for s in systems}
        for row in rows.values()
    ]
    return pd.DataFrame(told or [{"corpus": "", "fold": NOT_YET}])


def decided(tests: pd.DataFrame) -> str:
    """How many of a table's comparisons are decided and how far their intervals reach, in words, one line a corpus."""
    lines = []
    for key, rows in tests.groupby("corpus", sort=False):
        some = rows[rows["p"].notna()]
        if some.empty:
            lines.append(f"{key}: no comparison has two pairs of runs.")
            continue
        counts, reach = some["verdict"].value_counts(), 50 * (some["high"] - some["low"]).median()
        said = f"{counts.get('higher', 0)} of {len(some)} comparisons higher, {counts.get('lower', 0)} lower"
        lines.append(f"{key}: {said}; the median interval reaches {reach:.1f} points to each side.")
    return "\n".join(lines)


def readable(tests: pd.DataFrame) -> pd.DataFrame:
    """Tests with WA and UA by name, and differences in points."""
    named = tests.replace({"metric": {metric: short for short, metric in METRICS.items()}})
    for column in ("difference", "low", "high"):
        named[column] = [f"{100 * value:+.2f}" if pd.notna(value) else "" for value in named[column]]
    return named.rename(columns={"difference": "ours in points"})


def along(found: Sequence[Mapping]) -> pd.DataFrame:
    """What looks at window capsules say, one row a corpus and system: means with 95% intervals over the folds.

    Args:
        found: from ``insight.looks(runs, windows.window_lengths)``.
    """
    columns = {
        "length": (lambda look: look["length"], (0.0, 1.0)),
        "share longer than 0.99": (lambda look: look["full"], (0.0, 1.0)),
        "deviation along an utterance, thousandths": (lambda look: 1000 * look["within"], (0.0, 1000.0)),
        "deviation between utterances, thousandths": (lambda look: 1000 * look["between"], (0.0, 1000.0)),
        "likeness of one window to the next (cosine)": (lambda look: look["likeness"], (-1.0, 1.0)),
        "correlation of the longest with loudness": (lambda look: look["loudness"], (-1.0, 1.0)),
    }
    return tables.of_looks(found, columns)


def deafened(found: Sequence[Mapping]) -> pd.DataFrame:
    """What looks at networks without their recurrent connection say, one row a corpus and system.

    Args:
        found: from ``insight.looks(runs, windows.without_recurrence)``.
    """
    columns = {
        "decisions that change": (lambda look: look["changed"], (0.0, 1.0)),
        "WA as trained": (lambda look: look["accuracy"], (0.0, 1.0)),
        "WA without": (lambda look: look["without"], (0.0, 1.0)),
        "WA without, minus as trained": (lambda look: look["without"] - look["accuracy"], (-1.0, 1.0)),
    }
    return tables.of_looks(found, columns)


def followed(found: Sequence[Mapping]) -> pd.DataFrame:
    """What looks at input gradients say, one row a corpus and system: means with 95% intervals over the folds.

    Args:
        found: from ``insight.looks(runs, gradients.input_gradients)``.
    """
    columns = {
        "correlation with the spectrogram": (lambda look: look["correlation"], (-1.0, 1.0)),
        "share on the loudest tenth (0.1: even)": (lambda look: look["loudest"], (0.0, 1.0)),
        "share on its own largest tenth": (lambda look: look["largest"], (0.0, 1.0)),
    }
    return tables.of_looks(found, columns)
