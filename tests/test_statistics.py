"""Intervals, paired tests and verdicts: on numbers worked out by hand, and on simulated studies."""

import numpy as np
import pytest
from scipy import stats

from capslib import statistics
from capslib.errors import CapslibError
from capslib.study import Grid, Runs


def record(
    corpus="c:t", model="caps", split="fold1", seed=0, accuracy=0.5, units=None, test=20, train=80, training=0.99
):
    return {
        "system": model,
        "config": {"corpus": corpus, "model": model, "split": split, "seed": seed},
        "data": {"clips": {"train": train, "validation": 10, "test": test}},
        "train": {"accuracy": training},
        "test": {"accuracy": accuracy, "unweighted_accuracy": accuracy},
        "units": units or {split: [round(accuracy * test), test]},
    }


def test_interval_is_the_t_interval_over_units():
    values = [0.6, 0.7, 0.65, 0.8]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    made = statistics.interval(values)
    assert (made.mean, made.low, made.high) == pytest.approx((np.mean(values), low, high))
    assert str(made) == f"{made.mean:.3f} [{low:.3f}, {high:.3f}]"


def test_interval_of_accuracies_stays_between_zero_and_one():
    made = statistics.interval([0.2, 0.95, 0.9])
    assert made.low >= 0 and made.high <= 1


def test_one_unit_has_no_interval_and_none_is_an_error():
    assert str(statistics.interval([0.5])) == "0.500"
    with pytest.raises(CapslibError, match="at least one value"):
        statistics.interval([])


def test_units_pool_clips_within_a_seed_and_average_over_seeds():
    records = [
        record(split="fold1", seed=0, units={"anna": [1, 10], "ben": [5, 10]}),
        record(split="fold1", seed=1, units={"anna": [3, 10], "ben": [5, 10]}),
        record(split="fold2", seed=0, units={"carl": [9, 10]}),
    ]
    assert statistics.unit_accuracies(records).to_dict() == pytest.approx({"anna": 0.2, "ben": 0.5, "carl": 0.9})
    assert statistics.cell(records).n == 3  # speakers, not 70 clips and not 3 runs


def test_corrected_test_by_hand():
    differences = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    made = statistics.corrected_resampled_t_test(differences, 0.25)
    t = differences.mean() / np.sqrt(differences.var(ddof=1) * (1 / 5 + 0.25))
    assert made.t == pytest.approx(t)
    assert made.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert made.low < made.difference < made.high
    plain = stats.ttest_1samp(differences, 0.0)
    assert statistics.corrected_resampled_t_test(differences, 0.0).p == pytest.approx(plain.pvalue)


def test_identical_systems_are_not_different_and_one_pair_is_no_test():
    assert statistics.corrected_resampled_t_test([0.0, 0.0, 0.0], 0.25).p == 1.0
    with pytest.raises(CapslibError, match="at least two"):
        statistics.corrected_resampled_t_test([0.1], 0.25)


def test_pairs_are_of_the_same_fold_and_seed():
    first = [record(split=f"fold{k}", accuracy=a) for k, a in enumerate((0.5, 0.6, 0.9))]
    second = [record(model="cnn", split=f"fold{k}", accuracy=a) for k, a in enumerate((0.4, 0.4))]
    made = statistics.against([*first, *second], "caps").iloc[0]
    assert made["n"] == 2 and made["difference"] == pytest.approx(0.15)


def test_false_positives_of_the_corrected_test_are_about_five_percent():
    corrected = statistics.false_positive_rate(None)
    naive = statistics.false_positive_rate(0.0)
    assert 0.02 <= corrected <= 0.07
    assert naive > 0.2, "the simulation must be one in which the uncorrected test fails"


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    records = []
    for k in range(5):
        for seed in range(5):
            base = 0.6 + 0.05 * rng.standard_normal()
            records.append(record(model="cnn", split=f"fold{k}", seed=seed, accuracy=base))
            records.append(record(split=f"fold{k}", seed=seed, accuracy=base + 0.1 + 0.01 * rng.standard_normal()))
    table = statistics.against(records, "caps")
    assert table["verdict"].tolist() == ["higher"]
    assert "CAPS against CNN: higher (+" in statistics.sentence(table)


def test_holm_over_the_whole_table():
    adjusted = statistics.holm([0.01, 0.04, 0.03])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06])
    assert len(statistics.holm([])) == 0


def test_one_fold_gives_no_verdict():
    table = statistics.against([record(), record(model="cnn")], "caps")
    assert table["verdict"].tolist() == ["one fold only"]
    assert "no test" in statistics.sentence(table)


def test_no_fold_in_common_is_not_one_fold():
    table = statistics.against([record(split="a"), record(model="cnn", split="b")], "caps")
    assert table[["n", "verdict"]].to_numpy().tolist() == [[0, "not run yet"]]


def test_systems_that_were_not_run_are_left_out():
    assert statistics.against([record(model="cnn")], "caps").empty


def test_what_stands_side_by_side_is_of_the_same_seeds():
    def of(system, seeds, folds=("a", "b")):
        return [record(model=system, split=fold, seed=seed) for seed in seeds for fold in folds]

    grid = Grid("quick", (), {}, {})

    def shown(*made):
        kept = statistics.comparable(Runs(grid, tuple(r for some in made for r in some), (), (), ())).records
        return {(r["system"], r["config"]["seed"]) for r in kept}

    assert shown(of("caps", (0, 1, 2)), of("att", (0, 1))) == {("caps", 0), ("caps", 1), ("att", 0), ("att", 1)}
    begun = [*of("att", (0,)), *of("att", (1,), ("a",))]  # the second seed is under way
    assert shown(of("caps", (0, 1)), begun) == {("caps", 0), ("att", 0)}
    assert shown(of("caps", (0,)), of("att", (1,))) == {("caps", 0), ("att", 1)}  # nothing in common: as they are
    both = Runs(grid, tuple([*of("caps", (0, 1)), *of("att", (0,))]), (), (), ())
    assert len(statistics.comparable(both, ["caps"]).records) == 4


def test_the_sentence_says_how_large_a_difference_could_be_seen():
    values = {"caps": (0.7, 0.75, 0.8), "att": (0.6, 0.66, 0.69)}
    made = [
        record(model=system, split=f"f{k}", accuracy=value)
        for system, found in values.items()
        for k, value in enumerate(found)
    ]
    tests = statistics.against(made, "caps")
    reach = 50 * (tests["high"] - tests["low"]).item()
    assert f"the intervals reach {reach:.1f} points to each side" in statistics.sentence(tests)


@pytest.mark.parametrize("training, verdict", [(0.9, "higher"), (0.3, "att has not learnt its training part (0.30)")])
def test_a_difference_with_one_that_has_not_learnt_is_no_verdict(training, verdict):
    made = [record(split=f"f{k}", accuracy=0.8 + k / 100) for k in range(5)]
    made += [record(model="att", split=f"f{k}", accuracy=0.2 + k / 90, training=training) for k in range(5)]
    tests = statistics.against(made, "caps")
    assert tests["verdict"].tolist() == [verdict]
    assert verdict in statistics.sentence(tests)
