"""What the records allow one to say: intervals over speakers, and families of paired tests on the same folds and seeds.

Clips of one speaker are not independent, so an interval is over speakers (or official folds), never over clips. Two
systems are compared in pairs on the same folds and seeds, with a variance that knows that the training parts overlap.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from capslib.errors import CapslibError
from capslib.study import Runs

LEVEL = 0.05
NOT_YET = "not run yet"
NOT_LEARNT = "has not learnt its training part"
# In speech emotion recognition weighted accuracy is accuracy; unweighted accuracy is the mean recall of the classes.
METRICS = {"WA": "accuracy", "UA": "unweighted_accuracy"}
# Metrics that no record holds: see ``metric_value``.
EARLY = "validation WA, epochs 1 to 5"
GAP = "training minus test accuracy"

# Fold and seed of a run: what two systems must have in common to be compared.
Pair = tuple[str, int]
# Names of two systems each.
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% t-interval; ``low`` and ``high`` are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" [{self.low:.3f}, {self.high:.3f}]" if self.n > 1 else "")


def interval(values: Sequence[float], bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Mean and t-interval of values, one per independent unit (speaker, fold), cut off at ``bounds``. Raises
    CapslibError if there is no value."""
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise CapslibError("an interval needs at least one value: no run has a record yet")
    n, mean = len(x), float(x.mean())
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * x.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
    low, high = np.clip([mean - half, mean + half], *bounds)
    return Interval(mean, float(low), float(high), n)


def comparable(runs: Runs, systems: Collection[str] | None = None) -> Runs:
    """Runs of these systems (by default all) on the seeds that all of them have, corpus by corpus. A seed counts for a
    system when it has as many folds as any seed of the system. Where no seed is shared, all stay."""
    chosen = [r for r in runs.records if systems is None or r["system"] in systems]
    records = []
    for corpus in dict.fromkeys(r["config"]["corpus"] for r in chosen):
        of_corpus = [r for r in chosen if r["config"]["corpus"] == corpus]
        seeds = [r["config"]["seed"] for r in of_corpus]
        folds = pd.crosstab([r["system"] for r in of_corpus], seeds)
        shared = folds.columns[folds.eq(folds.max(axis=1), axis=0).all()]
        records += [r for r, seed in zip(of_corpus, seeds, strict=True) if shared.empty or seed in shared]
    return replace(runs, records=tuple(records))


def unit_accuracies(records: Sequence[dict]) -> pd.Series:
    """Accuracy of each unit (speaker, fold) of a system on a corpus: clips pooled within seeds, mean over the seeds."""
    rows = [(unit, r["config"]["seed"], *counts) for r in records for unit, counts in r["units"].items()]
    pooled = pd.DataFrame(rows, columns=["unit", "seed", "right", "clips"]).groupby(["unit", "seed"]).sum()
    return (pooled["right"] / pooled["clips"]).groupby("unit").mean()


def over_folds(values: Iterable[tuple[str, float]], bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """``interval`` over the folds (of FSDD: speakers) of (fold, value) pairs, mean over the seeds within a fold."""
    frame = pd.DataFrame(values, columns=["fold", "value"])
    return interval(frame.groupby("fold")["value"].mean().to_numpy(), bounds)


def cell(records: Sequence[dict], metric: str = "accuracy") -> Interval:
    """What a table shows for one system on one corpus: mean of a metric of the test part over units, with its interval.
    Others than accuracy are known for whole folds only, which are the units then."""
    if metric == "accuracy":
        return interval(unit_accuracies(records).to_numpy())
    return over_folds([(r["config"]["split"], r["test"][metric]) for r in records])


class Test(NamedTuple):
    """A paired comparison: mean difference, its 95% interval, t and two-sided p."""

    difference: float
    low: float
    high: float
    t: float
    p: float


def corrected_resampled_t_test(differences: Sequence[float], test_train_ratio: float) -> Test:
    """Paired t-test for results of resampled, overlapping training sets (Nadeau and Bengio 2003).

    The variance of the mean is s^2 (1/n + n_test / n_train) in place of s^2 / n. The differences, (n,), are of two
    systems on the same folds and seeds; ``test_train_ratio`` is test clips over training clips of a fold. Raises
    CapslibError for fewer than two differences.
    """
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 2:
        raise CapslibError("a paired test needs at least two common folds or seeds")
    mean, error = float(d.mean()), np.sqrt(d.var(ddof=1) * (1 / n + test_train_ratio))
    t = float(mean / error) if error else float("inf") if mean else 0.0
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * error)
    return Test(mean, mean - half, mean + half, t, float(2 * stats.t.sf(abs(t), n - 1)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment over a family of tests: (n,) -> (n,)."""
    return multipletests(list(p_values), method="holm")[1] if len(p_values) else np.zeros(0)


def run_of(record: Mapping) -> Pair:
    """Fold and seed of a record."""
    return record["config"]["split"], record["config"]["seed"]


def records_of(runs: Runs, corpus: str, system: str) -> list[dict]:
    """The records of a system on a corpus."""
    return [r for r in runs.records if r["system"] == system and r["config"]["corpus"] == corpus]


def metric_value(record: Mapping, metric: str) -> float:
    """A metric of a record: one of the test part ("accuracy", "unweighted_accuracy", ...), "recall of happy" (NaN where
    no test clip is of that class), ``EARLY`` (the mean validation accuracy of the first five epochs) or ``GAP``."""
    if metric == EARLY:
        return float(np.mean([epoch["validation_accuracy"] for epoch in record["epochs"][:5]]))
    if metric == GAP:
        return record["train"]["accuracy"] - record["test"]["accuracy"]
    kind, _, label = metric.partition(" of ")
    if kind != "recall":
        return record["test"][metric]
    counts = dict(zip(record["classes"], record["confusion"], strict=True)).get(label, [0])
    return counts[record["classes"].index(label)] / sum(counts) if sum(counts) else float("nan")


def values(runs: Runs, corpus: str, system: str, metric: str) -> dict[Pair, float]:
    """A metric of a system on a corpus by fold and seed: see ``metric_value``."""
    return {run_of(r): metric_value(r, metric) for r in records_of(runs, corpus, system)}


def differences(first: Mapping[Pair, float], second: Mapping[Pair, float]) -> dict[Pair, float]:
    """One minus the other, by the fold and seed that both have; what is not a number is left out."""
    both = {run: first[run] - second[run] for run in first if run in second}
    return {run: difference for run, difference in both.items() if not np.isnan(difference)}


def test_differences(runs: Runs, families: Mapping[tuple[str, str, str], Mapping[Pair, float]]) -> pd.DataFrame:
    """Corrected resampled t-tests that differences are zero, all of them one family for Holm's correction.

    The differences, of ``runs``, are by fold and seed; the families are by (corpus, comparison, metric). The ratio of
    test to training clips is that of the corpora's cards: records count segments of the training part.

    Returns:
        One row each: corpus, comparison, metric, difference, low, high, p, n pairs, of how many seeds, p (Holm) and
        verdict: "higher", "lower" or "inconclusive" at the 5% level after correction, "one fold only" or "not run yet".
    """
    ratios, rows = {(r["config"]["corpus"], run_of(r)): _test_train_ratio(runs, r) for r in runs.records}, []
    for (corpus, comparison, metric), by_run in families.items():
        row = {"corpus": corpus, "comparison": comparison, "metric": metric}
        row |= {"n": len(by_run), "seeds": len({seed for _, seed in by_run})}
        if len(by_run) > 1:
            ratio = float(np.mean([ratios[corpus, run] for run in by_run]))
            row |= corrected_resampled_t_test(list(by_run.values()), ratio)._asdict()
        rows.append(row)
    columns = ["corpus", "comparison", "metric", "difference", "low", "high", "p", "n", "seeds", "p (Holm)", "verdict"]
    frame = pd.DataFrame(rows, columns=columns)
    tested = frame["p"].notna()
    frame.loc[tested, "p (Holm)"] = holm(frame.loc[tested, "p"])
    states = [frame["n"] == 0, ~tested, frame["p (Holm)"] > LEVEL, frame["difference"] > 0]
    frame["verdict"] = np.select(states, [NOT_YET, "one fold only", "inconclusive", "higher"], "lower").astype(object)
    return frame


def _test_train_ratio(runs: Runs, record: Mapping) -> float:
    split = runs.grid.cards[record["config"]["corpus"]]["splits"][record["config"]["split"]]
    return split["test"] / min(split["train"], record["config"].get("max_train_clips") or split["train"])


def paired_tests(
    runs: Runs, pairs: Pairs, metrics: Sequence[str] = ("accuracy",), corpora: Sequence[str] | None = None
) -> pd.DataFrame:
    """Tests of one system minus another on the folds and seeds that both have, one family for Holm's correction.

    Args:
        runs: of the systems.
        pairs: names of two systems each, minuend first.
        metrics: see ``metric_value``.
        corpora: keys; by default all of the runs.
    Returns:
        See ``test_differences``; one row per corpus, pair and metric. Where a difference is significant but the loser
        fits its training part worse than the winner does unseen clips (in this metric, or in accuracy where the parts
        do not have it), the loser was not trained to the end, which is about the budget: the verdict says so instead.
    """
    tests = list(product(runs.grid.cards if corpora is None else corpora, pairs, metrics))
    families = {
        (key, " - ".join(pair), metric): differences(*(values(runs, key, system, metric) for system in pair))
        for key, pair, metric in tests
    }
    frame = test_differences(runs, families)
    for place, (key, pair, metric) in enumerate(tests):
        if frame.loc[place, "verdict"] in ("higher", "lower"):
            winner, loser = pair if frame.loc[place, "verdict"] == "higher" else pair[::-1]
            learnt, unseen = (
                np.mean([r[part].get(metric, r[part]["accuracy"]) for r in records_of(runs, key, system)])
                for system, part in ((loser, "train"), (winner, "test"))
            )
            if learnt < unseen:
                frame.loc[place, "verdict"] = f"{loser} {NOT_LEARNT} ({learnt:.2f})"
    return frame


def reference_tests(runs: Runs, reference: str, metric: str = "accuracy") -> pd.DataFrame:
    """``paired_tests`` of one system minus each other that has a run in common, less the columns metric and seeds."""
    systems = dict.fromkeys([*(run.system for run in runs.grid.runs), *(record["system"] for record in runs.records)])
    frame = paired_tests(runs, [(reference, other) for other in systems if other != reference], [metric])
    return frame[frame["n"] > 0].drop(columns=["metric", "seeds"]).reset_index(drop=True)


def sentence(tests: pd.DataFrame) -> str:
    """What a table of ``reference_tests`` says, in words, one line per corpus."""
    lines = []
    for corpus, rows in tests.groupby("corpus", sort=False):
        words = []
        for _, row in rows.iterrows():
            first, second = row["comparison"].upper().split(" - ")
            size = f"{100 * row['difference']:+.1f} points, p = {row['p (Holm)']:.3f}"
            result = f"{row['verdict']}, no test" if pd.isna(row["p"]) else f"{row['verdict']} ({size})"
            words.append(f"{first} against {second}: {result}")
        reach = 50 * (rows["high"] - rows["low"]).dropna()
        if len(reach):
            span = " to ".join(dict.fromkeys(f"{value:.1f}" for value in (reach.min(), reach.max())))
            words.append(f"the intervals reach {span} points to each side, and what is smaller cannot be seen")
        lines.append(f"{corpus}. " + "; ".join(words) + ".")
    return "\n".join(lines)
