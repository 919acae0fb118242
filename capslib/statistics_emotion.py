"""Paired tests of P1's and P2's systems: WA, UA, recalls and early validation WA, on the same folds and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from capslib import statistics
from capslib.study import Runs

METRICS = {"WA": "accuracy", "UA": "unweighted_accuracy"}
EARLY = "validation WA, epochs 1 to 5"


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


def gains(runs: Runs, key: str, first: str, second: str, metric: str) -> dict[tuple[str, int], float]:
    """Metric of one system minus another's on a corpus: see ``metric_of`` and ``statistics.differences``."""
    ours, others = runs.of(corpus=key, system=first), runs.of(corpus=key, system=second)
    return statistics.differences(ours, others, lambda record: metric_of(record, metric))


def tested(runs: Runs, families: Mapping[tuple[str, str, str], Mapping[tuple[str, int], float]]) -> pd.DataFrame:
    """``statistics.tested`` with the share of test clips that the corpora's cards tell: records count segments in training."""
    ratios = {}
    for record in runs.records:
        key, run = record["config"]["corpus"], statistics.run_of(record)
        split = runs.grid.cards[key]["splits"][run[0]]
        train = min(split["train"], record["config"].get("max_train_clips") or split["train"])
        ratios[key, run] = split["test"] / train
    return statistics.tested(families, ratios)


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
        See ``statistics.tested``. Where the difference is significant but the loser has not learnt its training part, the verdict says
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
