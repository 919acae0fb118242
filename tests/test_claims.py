"""The ledger: verdicts follow from records by rule, whatever the paper hoped."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
from fabricated import CARDS, EMODB, HIGH, LOW, RAVDESS, records, runs_of

from capslib import claims, papers, report, statistics
from capslib.claims import NO_DATA, OPEN, REFUTED, SUPPORTED, Reading

BOTH = ("accuracy", "unweighted_accuracy")
IEMOCAP = ["IEMOCAP"]
WORST = [0.2, 0.21, 0.22, 0.18, 0.2]


def two(corpus: str, ours: Sequence[float], others: Sequence[float], training: float = 0.95) -> list[dict]:
    return [*records(corpus, "a", ours), *records(corpus, "b", others, training=training)]


A_BEATS_B = claims.higher(["a"], ["b"], ["FSDD"])


@pytest.mark.parametrize(("ours", "verdict"), [(HIGH, SUPPORTED), (WORST, REFUTED), (LOW[::-1], OPEN)])
def test_a_verdict_is_the_direction_of_a_significant_difference(ours, verdict):
    finding = A_BEATS_B(runs_of(two("fsdd:digit", ours, LOW)))
    assert finding.verdict == verdict
    assert "fsdd:digit: a - b: " in finding.evidence and "5 pairs of 1 seed" in finding.evidence


def test_a_claim_is_not_supported_by_a_part_of_what_it_says():
    answer = claims.higher(["a"], ["b"], ["FSDD", "VCTK"])
    fsdd, one_fold = two("fsdd:digit", HIGH, LOW), two("ased:gender", HIGH[:1], LOW[:1])
    assert answer(runs_of(fsdd)).verdict == OPEN and answer(runs_of(fsdd)).evidence.endswith("too few runs on VCTK")
    assert answer(runs_of(fsdd, one_fold)).verdict == OPEN
    assert answer(runs_of(fsdd, one_fold)).evidence.endswith("too few runs on ased:gender")
    assert answer(runs_of(one_fold)).verdict == answer(runs_of()).verdict == NO_DATA
    assert answer(runs_of(fsdd, two("ased:gender", HIGH, LOW))).verdict == SUPPORTED
    lost = two("fsdd:digit", LOW, HIGH)
    assert answer(runs_of(lost)).verdict == REFUTED, "one counterexample is enough"


@pytest.mark.parametrize(
    ("emodb", "ravdess", "verdict"),
    [
        (HIGH, HIGH, SUPPORTED),
        (HIGH, LOW[::-1], OPEN),
        (HIGH, WORST, REFUTED),
        (HIGH, [], OPEN),
        (HIGH[:3], HIGH[:3], OPEN),  # a few pairs never decide
        ([], [], NO_DATA),
    ],
)
def test_each_stand_in_must_agree(emodb, ravdess, verdict):
    made = runs_of(two(EMODB, emodb, LOW), two(RAVDESS, ravdess, LOW), keys=(EMODB, RAVDESS))
    finding = claims.higher(["a"], ["b"], IEMOCAP, BOTH)(made)
    assert finding.verdict == verdict
    assert finding.evidence.endswith(f"too few runs on {RAVDESS}") == (bool(emodb) and not ravdess)


def test_beside_the_paper_s_own_corpus_no_stand_in_counts():
    made = runs_of(two(EMODB, HIGH, LOW), two(RAVDESS, LOW, HIGH))
    answer = claims.higher(["a"], ["b"], IEMOCAP)
    assert answer(made).verdict == REFUTED and f"{RAVDESS} (stand-in for IEMOCAP): a - b" in answer(made).evidence
    made.grid.cards[EMODB]["evidence"] = "same corpus"
    assert answer(made).verdict == SUPPORTED and RAVDESS not in answer(made).evidence


def test_synthetic_corpora_never_count():
    assert A_BEATS_B(runs_of(two("synth_digits:digit", HIGH, LOW))).verdict == NO_DATA


def test_the_metric_is_named_unless_all_is_accuracy():
    made = runs_of(two(EMODB, HIGH, LOW))
    for record in made.records:
        record["test"]["weighted_accuracy"] = 0.5
    assert ", WA: +29.8" in claims.higher(["a"], ["b"], IEMOCAP, BOTH)(made).evidence
    weighted = claims.higher(["a"], ["b"], IEMOCAP, ["weighted_accuracy"])(made)
    assert weighted.verdict == OPEN and "a - b, weighted accuracy: +0.0 points" in weighted.evidence


def test_the_source_of_a_transfer_is_named():
    made = runs_of(two("fsdd:digit", HIGH, LOW))
    for record in made.records[:5]:
        record["config"]["source"] = {"corpus": "emodb:emotion4"}
    assert "fsdd:digit (source emodb:emotion4, stand-in for IEMOCAP): a - b" in A_BEATS_B(made).evidence


def test_a_loser_that_has_not_learnt_decides_nothing():
    for ours, others in ((HIGH, LOW), (LOW, HIGH)):
        made = runs_of(two("fsdd:digit", ours, others))
        assert A_BEATS_B(made).verdict != OPEN
        for record in made.records:
            record["train"]["accuracy"] = 0.55
        assert A_BEATS_B(made).verdict == OPEN
        assert "has not learnt its training part (0.55)" in A_BEATS_B(made).evidence


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ([v + 0.001 for v in HIGH], SUPPORTED),
        ([v + d for v, d in zip(HIGH, (0.2, -0.2, 0.1, -0.1, 0), strict=True)], OPEN),
        (LOW, REFUTED),
        (HIGH[:3], OPEN),
        ([], NO_DATA),
    ],
)
def test_alike_is_an_interval_within_a_point(other, verdict):
    assert claims.alike([("a", "b")], IEMOCAP)(runs_of(two(EMODB, HIGH, other))).verdict == verdict


def test_alike_is_not_refuted_by_what_is_not_significant():
    """Of eight comparisons one differs by chance, with an interval of its own beyond a point."""
    once = [v - d for v, d in zip(HIGH, (0.04, 0.09, 0.05, 0.10, 0.06), strict=True)]
    alone = runs_of(records(EMODB, "a", HIGH), records(EMODB, "c", once))
    pairs = [("a", "c"), *(("a", f"b{k}") for k in range(7))]
    assert claims.alike(pairs[:1], IEMOCAP)(alone).verdict == REFUTED
    noisy = [records(EMODB, f"b{k}", [0.80, 0.70, 0.90, 0.75, 0.85]) for k in range(7)]
    assert claims.alike(pairs, IEMOCAP)(runs_of(list(alone.records), *noisy)).verdict == OPEN


def test_training_is_expedited_where_the_first_epochs_are_better():
    made = runs_of(two(EMODB, HIGH, LOW))
    assert claims.beats([("a", "b")], IEMOCAP, (statistics.EARLY,))(made).verdict == SUPPORTED


def test_more_help_is_a_difference_of_gains():
    answer = claims.helps_more([("a", "a, plain")], [("b", "b, plain")], IEMOCAP, BOTH)

    def verdict(ours: list[float], others: list[float]) -> str:
        plain = [records(EMODB, f"{system}, plain", LOW) for system in ("a", "b")]
        return answer(runs_of(two(EMODB, ours, others), *plain)).verdict

    less = [value - 0.15 for value in HIGH]
    assert verdict(HIGH, [v + 0.01 for v in LOW]) == SUPPORTED  # both gain, one of them more
    assert verdict(less, [0.9, 0.92, 0.95, 0.88, 0.93]) == REFUTED and verdict(HIGH, HIGH) == OPEN


def test_the_hardest_class_has_the_lowest_recall():
    made = runs_of(records(EMODB, "a", LOW, happy=0.1), records(EMODB, "b", LOW, happy=0.9))

    def verdict(systems: Sequence[str], label: str) -> str:
        others = [name for name in ("angry", "happy", "neutral", "sad") if name != label]
        return claims.hardest(systems, label, others, IEMOCAP)(made).verdict

    assert verdict(["a"], "happy") == SUPPORTED and verdict(["a"], "neutral") == REFUTED
    assert verdict(["b"], "happy") == verdict(["a", "b"], "happy") == OPEN  # b recalls as many of happy as of sad
    assert verdict(["a"], "calm") == NO_DATA


@pytest.mark.parametrize(("training", "verdict"), [(0.95, SUPPORTED), (0.82, OPEN)])
def test_overfitting_is_a_wider_gap_and_not_only_a_lower_accuracy(training, verdict):
    answer, less = claims.overfits("a", "b", "FSDD"), [0.70, 0.72, 0.71, 0.69, 0.70]
    finding = answer(runs_of(two("fsdd:digit", HIGH, less, training)))
    assert finding.verdict == verdict and "training minus test accuracy, at the epoch" in finding.evidence
    assert answer(runs_of()).verdict == NO_DATA


FOUR = {"ased:gender": "VCTK", "emodb:emotion4": "IEMOCAP", "urbansound8k:sound": "Urban8K", "fsdd:digit": "FSDD"}
NEAR = [0.60, 0.62, 0.61, 0.59, 0.60]


def test_the_largest_lead_must_be_a_lead_and_larger_than_each_other():
    answer = claims.most_on("Urban8K", ("a", "b"), list(FOUR.values()))

    def verdict(urban: list[float], elsewhere: list[float], keys: Sequence[str] = tuple(FOUR)) -> str:
        return answer(
            runs_of(*(two(key, urban if key.startswith("urban") else elsewhere, LOW) for key in keys))
        ).verdict

    assert verdict(HIGH, NEAR) == SUPPORTED and verdict(NEAR, HIGH) == REFUTED
    assert verdict([v - 0.1 for v in LOW], [0.1, 0.12, 0.11, 0.09, 0.1]) == OPEN  # a smaller loss is no lead
    assert verdict(HIGH, NEAR, ["urbansound8k:sound"]) == NO_DATA
    assert verdict(HIGH, NEAR, list(FOUR)[:3]) == OPEN  # FSDD may lie higher


def test_little_data_is_the_corpus_with_the_fewest_training_clips():
    made = runs_of(*(two(key, HIGH if key.startswith("emodb") else NEAR, LOW) for key in FOUR))
    for key, clips in zip(FOUR, (900, 400, 1700, 1800), strict=True):
        splits = {name: part | {"train": clips, "test": clips // 4} for name, part in CARDS[key]["splits"].items()}
        made.grid.cards[key]["splits"] = splits
    finding = claims.most_on(None, ("a", "b"), list(FOUR.values()))(made)
    assert finding.verdict == SUPPORTED
    assert finding.evidence.startswith("fewest training clips: emodb:emotion4 (400)")


def read(monkeypatch, shares: dict[str, Sequence[float]]) -> Reading:
    """A number of a probe, of these systems: one per fold."""

    def run(runs, probe, train, corpus, system):
        numbers = enumerate(shares.get(system, []), start=1)
        return [{"split": f"fold{k}", "seed": 0, "share": share} for k, share in numbers]

    monkeypatch.setattr(claims.probes, "run", run)
    return Reading(run, "share", lambda result: result["share"])


MOST = [0.90, 0.91, 0.89, 0.92, 0.90]


@pytest.mark.parametrize(
    ("gain", "speed", "verdict"),
    [
        (MOST, MOST, SUPPORTED),
        (MOST, WORST, REFUTED),
        (MOST, [0.2, 0.9, 0.5, 0.2, 0.9], OPEN),
        (MOST, MOST[:3], OPEN),  # three networks are too few, whatever they show
        (MOST, [], OPEN),
        ([], [], NO_DATA),
    ],
)
def test_a_share_is_above_a_bound_where_its_interval_is(gain, speed, verdict, monkeypatch):
    answer = claims.above(["gain", "speed"], read(monkeypatch, {"gain": gain, "speed": speed}), 0.5, ["FSDD"])
    finding = answer(runs_of(records("fsdd:digit", "gain", LOW)))
    assert finding.verdict == verdict
    assert not gain or "fsdd:digit: gain, share: 0.904 [0.890, 0.918], interval over 5 folds" in finding.evidence


@pytest.mark.parametrize(
    ("ours", "others", "verdict"),
    [
        (MOST, WORST, SUPPORTED),
        (WORST, MOST, REFUTED),
        (MOST, MOST[::-1], OPEN),
        (MOST[:3], WORST[:3], OPEN),
        (MOST, [], NO_DATA),
    ],
)
def test_a_number_of_a_probe_is_compared_like_a_metric(ours, others, verdict, monkeypatch):
    answer = claims.probe_higher([("a", "b")], read(monkeypatch, {"a": ours, "b": others}), ["FSDD"])
    finding = answer(runs_of(two("fsdd:digit", LOW, LOW)))
    assert finding.verdict == verdict and (verdict == NO_DATA or "a - b, share: " in finding.evidence)


def test_a_paper_s_own_table_and_what_nobody_tried_need_no_runs():
    right, wrong = (True, "1 is 1"), (False, "1 is not 2")
    assert claims.printed(lambda: [right])(runs_of()).verdict == SUPPORTED
    finding = claims.printed(lambda: [right, wrong])(runs_of())
    assert (finding.verdict, finding.evidence) == (REFUTED, "1 is 1; 1 is not 2 (from the paper's own table)")
    assert claims.untried("too large")(runs_of()) == claims.Finding(NO_DATA, "too large")


def test_the_report_has_the_claims_of_every_paper(tmp_path, monkeypatch):
    monkeypatch.setattr(report.study, "reports", lambda: tmp_path)
    page = report.write_claims("quick").read_text(encoding="utf-8")
    rows = pd.read_csv(tmp_path / "quick" / "tables" / "claims.csv")
    declared = {paper.key: len(paper.claims) for paper in papers.declared() if paper.claims}
    assert rows["paper"].value_counts(sort=False).to_dict() == declared and list(declared) == ["P0", "P1", "P2"]
    assert set(rows["verdict"]) <= {SUPPORTED, REFUTED, OPEN, NO_DATA}
    runs = sum(len(grid) for paper in papers.declared() for grid in paper.grids("quick"))
    assert f"of {runs} runs have a record" in page
