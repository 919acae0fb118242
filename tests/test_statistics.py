"""Intervals, paired tests and verdicts: on numbers worked out by hand, and on simulated studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fabricated import EMODB, HIGH, LOW, RAVDESS, SPLITS, records, runs_of
from scipy import stats

from capslib import statistics
from capslib.errors import CapslibError

BOTH = ("accuracy", "unweighted_accuracy")


def test_interval_is_the_t_interval_over_units():
    values = [0.6, 0.7, 0.65, 0.8]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    result = statistics.interval(values)
    assert (result.mean, result.low, result.high) == pytest.approx((np.mean(values), low, high))
    assert str(result) == f"{result.mean:.3f} [{low:.3f}, {high:.3f}]"


def test_interval_of_accuracies_stays_between_zero_and_one():
    result = statistics.interval([0.2, 0.95, 0.9])
    assert result.low >= 0 and result.high <= 1


def test_one_unit_has_no_interval_and_none_is_an_error():
    assert str(statistics.interval([0.5])) == "0.500"
    with pytest.raises(CapslibError, match="at least one value"):
        statistics.interval([])


def test_units_pool_clips_within_a_seed_and_average_over_seeds():
    units = {
        ("fold1", 0): {"anna": [1, 10], "ben": [5, 10]},
        ("fold1", 1): {"anna": [3, 10], "ben": [5, 10]},
        ("fold2", 0): {"carl": [9, 10]},
    }
    made = [{"config": {"split": split, "seed": seed}, "units": counts} for (split, seed), counts in units.items()]
    assert statistics.unit_accuracies(made).to_dict() == pytest.approx({"anna": 0.2, "ben": 0.5, "carl": 0.9})
    assert statistics.cell(made).n == 3  # speakers, not 70 clips and not 3 runs


def test_corrected_test_by_hand():
    differences = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    result = statistics.corrected_resampled_t_test(differences, 0.25)
    t = differences.mean() / np.sqrt(differences.var(ddof=1) * (1 / 5 + 0.25))
    assert result.t == pytest.approx(t)
    assert result.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert result.low < result.difference < result.high
    plain = stats.ttest_1samp(differences, 0.0)
    assert statistics.corrected_resampled_t_test(differences, 0.0).p == pytest.approx(plain.pvalue)


def test_identical_systems_are_not_different_and_one_pair_is_no_test():
    assert statistics.corrected_resampled_t_test([0.0, 0.0, 0.0], 0.25).p == 1.0
    with pytest.raises(CapslibError, match="at least two"):
        statistics.corrected_resampled_t_test([0.1], 0.25)


def false_positive_rate(ratio: float, studies: int = 600, folds: int = 5, repeats: int = 5, clips: int = 150) -> float:
    """How often the test calls two equally good learners different, by simulation.

    Each study draws a data set with two equally informative halves of its features; two linear discriminants, one on
    each half, are compared by repeated cross-validation. They differ by chance only.
    """
    random, positives = np.random.default_rng(0), 0
    y = np.repeat([0, 1], clips // 2)
    for _ in range(studies):
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
        positives += statistics.corrected_resampled_t_test(differences, ratio).p < statistics.LEVEL
    return positives / studies


def test_false_positives_of_the_corrected_test_are_about_five_percent():
    assert 0.02 <= false_positive_rate(1 / 4) <= 0.07
    assert false_positive_rate(0.0) > 0.2, "the simulation must be one in which the uncorrected test fails"


def test_holm_over_the_whole_table():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert len(statistics.holm([])) == 0


def test_pairs_are_of_the_same_fold_and_seed():
    made = runs_of(records(EMODB, "caps", [0.5, 0.6, 0.9]), records(EMODB, "cnn", [0.4, 0.4]))
    row = statistics.paired_tests(made, [("caps", "cnn")]).iloc[0]
    assert row["n"] == 2 and row["difference"] == pytest.approx(0.15)


def test_a_real_difference_is_found_and_its_seeds_are_counted():
    random = np.random.default_rng(0)
    base = 0.6 + 0.05 * random.standard_normal((5, 5))
    more = base + 0.1 + 0.01 * random.standard_normal((5, 5))
    made = runs_of(
        *(
            records(EMODB, name, list(row), seed=k)
            for name, rows in (("cnn", base), ("caps", more))
            for k, row in enumerate(rows)
        )
    )
    row = statistics.paired_tests(made, [("caps", "cnn")]).iloc[0]
    assert (row["verdict"], row["n"], row["seeds"]) == ("higher", 25, 5)


def test_holm_corrects_over_all_rows_and_one_pair_is_no_test():
    made = runs_of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW), records(EMODB, "c", LOW[:1]))
    rows = statistics.paired_tests(made, [("a", "b"), ("a", "c"), ("a", "d")], BOTH)
    rows = rows.set_index(["comparison", "metric"])
    assert rows.loc[("a - b", "accuracy"), "p (Holm)"] == pytest.approx(2 * rows.loc[("a - b", "accuracy"), "p"])
    assert set(rows.loc["a - c", "verdict"]) == {"one fold only"}
    assert set(rows.loc["a - d", "verdict"]) == {"not run yet"}


def test_the_ratio_of_test_clips_counts_clips_and_not_segments():
    """A record counts segments of the training part: its own ratio would make the test too sure of itself."""
    made = runs_of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW))
    for record in made.records:
        record["data"] = {"clips": {"train": 100_000, "test": 25}}
    differences = np.subtract(HIGH, LOW)

    def half_width() -> float:
        test = statistics.paired_tests(made, [("a", "b")]).iloc[0]
        return (test["high"] - test["low"]) / 2

    assert half_width() == pytest.approx(2.776445 * np.sqrt(differences.var(ddof=1) * (1 / 5 + 25 / 100)), rel=1e-4)
    for record in made.records:
        record["config"]["max_train_clips"] = 50
    assert half_width() == pytest.approx(2.776445 * np.sqrt(differences.var(ddof=1) * (1 / 5 + 25 / 50)), rel=1e-4)


def test_what_other_systems_have_run_does_not_change_a_test():
    made = runs_of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW))
    uneven = {name: part | {"test": 5 * (k + 1)} for k, (name, part) in enumerate(SPLITS.items())}
    made.grid.cards[EMODB]["splits"] = uneven
    more = runs_of(list(made.records), records(EMODB, "c", LOW[:1]))
    more.grid.cards[EMODB]["splits"] = uneven
    first, second = (statistics.paired_tests(runs, [("a", "b")], BOTH) for runs in (made, more))
    pd.testing.assert_frame_equal(first, second)


def test_metrics_have_names():
    record, nothing = records(EMODB, "a", HIGH, happy=0.3)[0], records(EMODB, "a", HIGH)[0]
    first = [epoch["validation_accuracy"] for epoch in record["epochs"][:5]]
    assert statistics.metric_value(record, "recall of happy") == 0.3
    assert statistics.metric_value(record, statistics.EARLY) == pytest.approx(np.mean(first))
    assert statistics.metric_value(record, statistics.GAP) == pytest.approx(0.15)
    nothing["confusion"][1] = [0, 0, 0, 0]
    assert np.isnan(statistics.metric_value(nothing, "recall of happy"))
    assert np.isnan(statistics.metric_value(record, "recall of calm"))


def test_a_recall_of_a_class_that_no_clip_has_is_left_out():
    made = runs_of(records(EMODB, "a", HIGH), records(EMODB, "b", HIGH))
    made.records[0]["confusion"][1] = [0, 0, 0, 0]
    assert statistics.paired_tests(made, [("a", "b")], ["recall of happy"])["n"].item() == 4


@pytest.mark.parametrize("training, verdict", [(0.9, "higher"), (0.3, "att has not learnt its training part (0.30)")])
def test_a_difference_with_one_that_has_not_learnt_is_no_verdict(training, verdict):
    made = runs_of(records(EMODB, "caps", HIGH), records(EMODB, "att", LOW, training=training))
    assert set(statistics.paired_tests(made, [("caps", "att")], [*BOTH, statistics.EARLY])["verdict"]) == {verdict}
    tests = statistics.reference_tests(made, "caps")
    assert tests["verdict"].tolist() == [verdict] and verdict in statistics.sentence(tests)


def test_a_reference_stands_beside_every_system_that_has_runs_in_common_with_it():
    made = runs_of(
        records(EMODB, "caps", HIGH),
        *(records(EMODB, system, LOW) for system in ("cnn", "att")),
        records(RAVDESS, "cnn", LOW),
    )
    tests = statistics.reference_tests(made, "caps")
    assert tests["comparison"].tolist() == ["caps - cnn", "caps - att"]
    assert "CAPS against CNN: higher (+29.8 points" in statistics.sentence(tests)
    assert statistics.reference_tests(runs_of(records(EMODB, "cnn", LOW)), "caps").empty


def test_one_fold_gives_no_verdict():
    tests = statistics.reference_tests(
        runs_of(records(EMODB, "caps", HIGH[:1]), records(EMODB, "cnn", LOW[:1])), "caps"
    )
    assert tests["verdict"].tolist() == ["one fold only"] and "no test" in statistics.sentence(tests)


def test_the_sentence_says_how_large_a_difference_could_be_seen():
    tests = statistics.reference_tests(runs_of(records(EMODB, "caps", HIGH), records(EMODB, "att", LOW)), "caps")
    reach = 50 * (tests["high"] - tests["low"]).item()
    assert f"the intervals reach {reach:.1f} points to each side" in statistics.sentence(tests)


def test_what_stands_side_by_side_is_of_the_same_seeds():
    def some(system, seeds, folds=2):
        return [record for seed in seeds for record in records(EMODB, system, HIGH[:folds], seed=seed)]

    def shown(*made):
        left = statistics.comparable(runs_of(*made)).records
        return {(r["system"], r["config"]["seed"]) for r in left}

    assert shown(some("caps", (0, 1, 2)), some("att", (0, 1))) == {("caps", 0), ("caps", 1), ("att", 0), ("att", 1)}
    begun = [*some("att", (0,)), *some("att", (1,), folds=1)]  # the second seed is under way
    assert shown(some("caps", (0, 1)), begun) == {("caps", 0), ("att", 0)}
    assert shown(some("caps", (0,)), some("att", (1,))) == {("caps", 0), ("att", 1)}  # nothing in common: as they are
    assert len(statistics.comparable(runs_of(some("caps", (0, 1)), some("att", (0,))), ["caps"]).records) == 4
