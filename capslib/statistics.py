"""What the records allow one to say: intervals over speakers, paired tests on the same folds and seeds, families of tests.

Clips of one speaker are not independent, so an interval is over speakers (or official folds), never over clips. Two
systems are compared in pairs on the same folds and seeds, with a variance that knows that the training parts overlap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from capslib.errors import CapslibError
from capslib.study import Runs

LEVEL = 0.05
NOT_YET = "not run yet"
NOT_LEARNT = "has not learnt its training part"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% t-interval; ``low`` and ``high`` are NaN for fewer than two values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n < 2:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float], bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Mean and t-interval over independent units.

    Args:
        values: one a unit (speaker, fold).
        bounds: the interval is cut off there; accuracies lie in [0, 1].
    Raises:
        CapslibError: if there is no value.
    """
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise CapslibError("an interval needs at least one value: no run has a record yet")
    if len(x) == 1:
        return Interval(float(x[0]), float("nan"), float("nan"), 1)
    half = stats.t.ppf(1 - LEVEL / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    low, high = np.clip([x.mean() - half, x.mean() + half], *bounds)
    return Interval(float(x.mean()), float(low), float(high), len(x))


def comparable(runs: Runs, systems: Collection[str] | None = None) -> Runs:
    """Runs without the seeds that only some systems of a corpus have, so that what stands side by side is of the same seeds.

    A seed counts for a system when it has as many folds as any seed of the system. Where no seed is shared, all stay.

    Args:
        systems: names of those that are compared; all by default.
    """
    chosen = [r for r in runs.records if systems is None or r["system"] in systems]
    kept = []
    for corpus in dict.fromkeys(r["config"]["corpus"] for r in chosen):
        here = [r for r in chosen if r["config"]["corpus"] == corpus]
        complete = []
        for system in {r["system"] for r in here}:
            folds = Counter(r["config"]["seed"] for r in here if r["system"] == system)
            complete.append({seed for seed, n in folds.items() if n == max(folds.values())})
        shared = set.intersection(*complete)
        kept += [r for r in here if not shared or r["config"]["seed"] in shared]
    return replace(runs, records=tuple(kept))


def unit_accuracies(records: Sequence[dict]) -> pd.Series:
    """Accuracy of every unit (speaker, fold), clips pooled within a seed, mean over the seeds.

    Args:
        records: of one system on one corpus; all folds and seeds there are.
    """
    rows = [
        (unit, record["config"]["seed"], right, clips)
        for record in records
        for unit, (right, clips) in record["units"].items()
    ]
    frame = pd.DataFrame(rows, columns=["unit", "seed", "right", "clips"])
    pooled = frame.groupby(["unit", "seed"])[["right", "clips"]].sum()
    return (pooled["right"] / pooled["clips"]).groupby("unit").mean()


def cell(records: Sequence[dict], metric: str = "accuracy") -> Interval:
    """What a table shows for one system on one corpus: mean over units, with its interval.

    Args:
        records: of one system on one corpus.
        metric: of the test part; others than accuracy are known for whole folds only, which are the units then.
    """
    if metric == "accuracy":
        return interval(unit_accuracies(records).to_numpy())
    values = pd.DataFrame([(r["config"]["split"], r["test"][metric]) for r in records], columns=["split", metric])
    return interval(values.groupby("split")[metric].mean().to_numpy())


def over_folds(found: Sequence[Mapping], value: Callable[[Mapping], float], bounds: tuple[float, float]) -> Interval:
    """Mean of a number of each look over the folds (of FSDD: speakers), mean over the seeds within one."""
    frame = pd.DataFrame([(look["split"], value(look)) for look in found], columns=["split", "value"])
    return interval(frame.groupby("split")["value"].mean().to_numpy(), bounds)


@dataclass(frozen=True)
class Test:
    """A paired comparison: mean difference, its 95% interval, t, degrees of freedom and two-sided p."""

    difference: float
    low: float
    high: float
    t: float
    p: float
    n: int


def corrected_resampled_t_test(differences: Sequence[float], test_train_ratio: float) -> Test:
    """Paired t-test for results of resampled, overlapping training sets (Nadeau and Bengio 2003).

    The variance of the mean is s^2 (1/n + n_test / n_train) in place of s^2 / n.

    Args:
        differences: of two systems on the same folds and seeds, (n,), n at least 2.
        test_train_ratio: test clips over training clips of a fold.
    """
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 2:
        raise CapslibError("a paired test needs at least two common folds or seeds")
    mean, variance = d.mean(), d.var(ddof=1)
    error = np.sqrt(variance * (1 / n + test_train_ratio))
    if error == 0:
        equal = mean == 0
        return Test(float(mean), float(mean), float(mean), 0.0 if equal else float("inf"), 1.0 if equal else 0.0, n)
    t = mean / error
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * error
    return Test(float(mean), float(mean - half), float(mean + half), float(t), float(2 * stats.t.sf(abs(t), n - 1)), n)


def differences(
    first: Iterable[Mapping], second: Iterable[Mapping], value: Callable[[Mapping], float]
) -> dict[tuple[str, int], float]:
    """Values of one system minus another's, by the fold and seed that both have; those that are not numbers are left out.

    Args:
        first, second: records of one corpus.
        value: of a record.
    """
    ours, others = ({run_of(r): value(r) for r in records} for records in (first, second))
    both = {run: ours[run] - others[run] for run in ours if run in others}
    return {run: found for run, found in both.items() if not np.isnan(found)}


def run_of(record: Mapping) -> tuple[str, int]:
    """Fold and seed."""
    return record["config"]["split"], record["config"]["seed"]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment over a family of tests: (n,) -> (n,)."""
    return multipletests(list(p_values), method="holm")[1] if len(p_values) else np.zeros(0)


def tested(
    families: Mapping[tuple[str, str, str], Mapping[tuple[str, int], float]],
    ratios: Mapping[tuple[str, tuple[str, int]], float],
) -> pd.DataFrame:
    """Corrected resampled t-tests that differences are zero, one family for Holm's correction.

    Args:
        families: differences by fold and seed, for each (corpus, comparison, metric).
        ratios: test clips over training clips, by (corpus, (fold, seed)).
    Returns:
        One row each: corpus, comparison, metric, difference, low, high, p, n pairs, of how many seeds, p (Holm), verdict; the
        verdict is "higher", "lower" or "inconclusive" at the 5% level after correction, "one fold only" or "not run yet".
    """
    rows = []
    for (key, comparison, metric), found in families.items():
        row = {"corpus": key, "comparison": comparison, "metric": metric, "n": len(found)}
        row["seeds"] = len({seed for _, seed in found})
        if len(found) > 1:
            ratio = float(np.mean([ratios[key, run] for run in found]))
            test = corrected_resampled_t_test(list(found.values()), ratio)
            row |= {"difference": test.difference, "low": test.low, "high": test.high, "p": test.p}
        rows.append(row)
    columns = ["corpus", "comparison", "metric", "difference", "low", "high", "p", "n", "seeds", "p (Holm)", "verdict"]
    frame = pd.DataFrame(rows, columns=columns)
    some = frame["p"].notna()
    frame.loc[some, "p (Holm)"] = holm(frame.loc[some, "p"])
    frame["verdict"] = [_verdict(row) for _, row in frame.iterrows()]
    return frame


def _verdict(row: pd.Series) -> str:
    if pd.isna(row["p"]):
        return "one fold only" if row["n"] else NOT_YET
    if row["p (Holm)"] > LEVEL:
        return "inconclusive"
    return "higher" if row["difference"] > 0 else "lower"


def against(records: Sequence[dict], reference: str, metric: str = "accuracy") -> pd.DataFrame:
    """``reference`` minus every other system of a corpus, one family for Holm's correction.

    Args:
        records: of all systems, as ``Runs`` holds them.
        reference: name of a system.
        metric: of the test part, "accuracy" or "unweighted_accuracy".
    Returns:
        Columns corpus, comparison, difference, low, high, p, n, p (Holm), verdict: see ``tested``; where the difference is
        significant but the loser has not learnt its training part, the verdict says that instead.
    """
    families, ratios = {}, {}
    for corpus in dict.fromkeys(r["config"]["corpus"] for r in records):
        of_corpus = [r for r in records if r["config"]["corpus"] == corpus]
        ours = [r for r in of_corpus if r["system"] == reference]
        ratios |= {(corpus, run_of(r)): r["data"]["clips"]["test"] / r["data"]["clips"]["train"] for r in ours}
        for system in dict.fromkeys(r["system"] for r in of_corpus):
            if system != reference and ours:
                others = (r for r in of_corpus if r["system"] == system)
                found = differences(ours, others, lambda r: r["test"][metric])
                families[corpus, f"{reference} - {system}", metric] = found
    frame = tested(families, ratios).drop(columns=["metric", "seeds"])
    notes = [not_learnt(records, row, reference, metric) for _, row in frame.iterrows()]
    frame["verdict"] = [note or verdict for note, verdict in zip(notes, frame["verdict"], strict=True)]
    return frame


def not_learnt(records: Sequence[dict], row: pd.Series, better: str, metric: str) -> str:
    """Which of two systems lost without having learnt its training part, in words; "" if neither.

    A loser that fits its own training part worse than the winner does unseen clips was not trained to the end: that speaks
    about the budget.

    Args:
        records: of one or several corpora.
        row: of ``against``, of the corpus.
        better: the reference there.
        metric: of both parts; accuracy where the training part has no such metric.
    """
    if row["verdict"] not in ("higher", "lower"):
        return ""
    other = row["comparison"].removeprefix(f"{better} - ")
    loser, winner = (other, better) if row["verdict"] == "higher" else (better, other)

    def mean(system: str, part: str) -> float:
        found = [r[part] for r in records if r["config"]["corpus"] == row["corpus"] and r["system"] == system]
        return sum(one[metric if metric in one else "accuracy"] for one in found) / len(found)

    learnt = mean(loser, "train")
    return f"{loser} {NOT_LEARNT} ({learnt:.2f})" if learnt < mean(winner, "test") else ""


def false_positive_rate(
    test_train_ratio: float | None,
    studies: int = 600,
    folds: int = 5,
    repeats: int = 5,
    clips: int = 150,
    seed: int = 0,
) -> float:
    """How often the test calls two equally good learners different, by simulation.

    Each study draws a data set with two equally informative halves of its features; two linear discriminants, one on
    each half, are compared by repeated cross-validation. They differ by chance only.

    Args:
        test_train_ratio: as in ``corrected_resampled_t_test``; None for the true ratio; 0 is the uncorrected test.
        studies, folds, repeats, clips: size of the simulation.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    ratio = 1 / (folds - 1) if test_train_ratio is None else test_train_ratio
    positives = 0
    for _ in range(studies):
        y = np.repeat([0, 1], clips // 2)
        x = random.standard_normal((len(y), 8)) + 0.35 * (2 * y[:, None] - 1)
        differences = []
        for _ in range(repeats):
            fold = random.permutation(np.arange(len(y)) % folds)
            for k in range(folds):
                train, test = fold != k, fold == k
                right = []
                for half in (x[:, :4], x[:, 4:]):
                    means = [half[train & (y == c)].mean(0) for c in (0, 1)]
                    w = np.linalg.solve(np.cov(half[train].T), means[1] - means[0])
                    score = (half[test] - (means[0] + means[1]) / 2) @ w
                    right.append(((score > 0) == y[test]).mean())
                differences.append(right[0] - right[1])
        positives += corrected_resampled_t_test(differences, ratio).p < LEVEL
    return positives / studies


def sentence(tests: pd.DataFrame) -> str:
    """What a table of ``against`` says, in words, one line a corpus."""
    lines = []
    for corpus, rows in tests.groupby("corpus", sort=False):
        said = []
        for _, row in rows.iterrows():
            first, second = row["comparison"].upper().split(" - ")
            if pd.isna(row["p"]):
                said.append(f"{first} against {second}: {row['verdict']}, no test")
                continue
            size = f"{100 * row['difference']:+.1f} points, p = {row['p (Holm)']:.3f}"
            said.append(f"{first} against {second}: {row['verdict']} ({size})")
        reach = 50 * (rows["high"] - rows["low"]).dropna()
        if len(reach):
            least, most = (f"{value:.1f}" for value in (reach.min(), reach.max()))
            span = least if least == most else f"{least} to {most}"
            said.append(f"the intervals reach {span} points to each side, and what is smaller cannot be seen")
        lines.append(f"{corpus}. " + "; ".join(said) + ".")
    return "\n".join(lines)
