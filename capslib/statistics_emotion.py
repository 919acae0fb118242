"""Paired tests of P1's and P2's systems: WA, UA, recalls and early validation WA, on the same folds and seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from capslib import statistics
from capslib.errors import CapslibError
from capslib.study import Runs

METRICS = {"WA": "accuracy", "UA": "unweighted_accuracy"}
EARLY = "validation WA, epochs 1 to 5"
NOT_YET = "not run yet"


def metric_of(record: Mapping, metric: str) -> float:
    """A metric of the test part: "accuracy", "unweighted_accuracy" or "recall of happy", which is NaN where no clip is; or
    ``EARLY``, the mean validation accuracy of the first five epochs."""
    if metric == EARLY:
        return float(np.mean([epoch["validation_accuracy"] for epoch in record["epochs"][:5]]))
    kind, _, label = metric.partition(" of ")
    if kind != "recall":
        return record["test"][metric]
    if label not in record["classes"]:
        return float("nan")
    place = record["classes"].index(label)
    counts = record["confusion"][place]
    return counts[place] / sum(counts) if sum(counts) else float("nan")


def _ratio(runs: Runs, record: Mapping) -> float:
    """Test clips over training clips; a record counts the training part's segments, of which a clip has several."""
    split = runs.grid.cards[record["config"]["corpus"]]["splits"][record["config"]["split"]]
    return split["test"] / min(split["train"], record["config"].get("max_train_clips") or split["train"])


def gains(runs: Runs, key: str, first: str, second: str, metric: str) -> dict[tuple[str, int], float]:
    """Metric of one system minus another's on a corpus, by fold and seed that both have; not numbers are left out."""

    def by_run(system: str) -> dict[tuple[str, int], float]:
        records = runs.of(corpus=key, system=system)
        return {(r["config"]["split"], r["config"]["seed"]): metric_of(r, metric) for r in records}

    ours, others = by_run(first), by_run(second)
    both = {run: ours[run] - others[run] for run in ours if run in others}
    return {run: value for run, value in both.items() if not np.isnan(value)}


def tested(runs: Runs, families: Mapping[tuple[str, str, str], Mapping[tuple[str, int], float]]) -> pd.DataFrame:
    """Corrected resampled t-tests that differences are zero, one family for Holm's correction.

    Args:
        runs: whose corpora give the share of test clips.
        families: differences by fold and seed, for each (corpus, comparison, metric).
    Returns:
        One row each: corpus, comparison, metric, difference, low, high, p, n pairs, of how many seeds, p (Holm), verdict; the
        verdict is "higher", "lower", "inconclusive", "one pair only" or "not run yet".
    """
    rows = []
    for (key, comparison, metric), differences in families.items():
        row = {"corpus": key, "comparison": comparison, "metric": metric, "n": len(differences)}
        row["seeds"] = len({seed for _, seed in differences})
        found = [r for r in runs.records if r["config"]["corpus"] == key]
        of_run = {(r["config"]["split"], r["config"]["seed"]): _ratio(runs, r) for r in found}
        ratios = [of_run[run] for run in differences]
        with contextlib.suppress(CapslibError):  # fewer than two pairs
            test = statistics.corrected_resampled_t_test(list(differences.values()), float(np.mean(ratios or [0])))
            row |= {"difference": test.difference, "low": test.low, "high": test.high, "p": test.p}
        rows.append(row)
    columns = ["corpus", "comparison", "metric", "difference", "low", "high", "p", "n", "seeds", "p (Holm)", "verdict"]
    frame = pd.DataFrame(rows, columns=columns)
    some = frame["p"].notna()
    frame.loc[some, "p (Holm)"] = statistics.holm(frame.loc[some, "p"])
    frame["verdict"] = [_verdict(row) for _, row in frame.iterrows()]
    return frame


def _verdict(row: pd.Series) -> str:
    if pd.isna(row["p"]):
        return "one pair only" if row["n"] else NOT_YET
    if row["p (Holm)"] > statistics.LEVEL:
        return "inconclusive"
    return "higher" if row["difference"] > 0 else "lower"


def paired(
    runs: Runs,
    pairs: Sequence[tuple[str, str]],
    metrics: Sequence[str] = tuple(METRICS.values()),
    keys: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Tests of one system minus another on the folds and seeds that both have, one family.

    Args:
        runs: of the systems.
        pairs: names of systems.
        metrics: see ``metric_of``.
        keys: of corpora; by default all of the runs.
    Returns:
        See ``tested``. Where the difference is significant but the loser has not learnt its training part, the verdict says
        that instead (by WA where the metric is not WA or UA).
    """
    keys = list(runs.grid.cards) if keys is None else keys
    rows = tested(
        runs,
        {
            (key, f"{first} - {second}", metric): gains(runs, key, first, second, metric)
            for key in keys
            for first, second in pairs
            for metric in metrics
        },
    )
    for place, row in rows.iterrows():
        metric = row["metric"] if row["metric"] in METRICS.values() else "accuracy"
        note = statistics.not_learnt(runs.records, row, row["comparison"].partition(" - ")[0], metric)
        rows.loc[place, "verdict"] = note or row["verdict"]
    return rows
