"""The ledger: verdicts follow from records by rule, whatever the paper hoped."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from capslib import claims, claims_emotion, report

CARDS = {
    "fsdd:digit": {"role": "P0 FSDD", "evidence": "same corpus"},
    "ased:gender": {"role": "P0 VCTK", "evidence": "stand-in"},
    "emodb:emotion4": {"role": "P0 IEMOCAP", "evidence": "stand-in"},
    "urbansound8k:sound": {"role": "P0 Urban8K", "evidence": "same corpus"},
    "synth_digits:digit": {"role": "P0 FSDD", "evidence": "synthetic"},
}


def records(corpus: str, system: str, accuracies: list[float], training: float = 0.9) -> list[dict]:
    return [
        {
            "system": system,
            "config": {"corpus": corpus, "model": system, "split": f"fold{k}", "seed": 0},
            "data": {"clips": {"train": 400, "test": 100}},
            "train": {"accuracy": training},
            "test": {"accuracy": accuracy},
        }
        for k, accuracy in enumerate(accuracies)
    ]


def runs(*made: list[dict]) -> SimpleNamespace:
    return SimpleNamespace(grid=SimpleNamespace(cards=CARDS), records=[record for some in made for record in some])


BASE = [0.50, 0.52, 0.51, 0.49, 0.50]
MUCH = [0.80, 0.81, 0.82, 0.78, 0.80]


@pytest.mark.parametrize(
    "ours, verdict",
    [(MUCH, claims.SUPPORTED), ([0.2, 0.21, 0.22, 0.18, 0.2], claims.REFUTED), (BASE[::-1], claims.OPEN)],
)
def test_a_verdict_is_the_direction_of_a_significant_difference(ours, verdict):
    found = claims.higher("caps", ("att",), ("FSDD",))(
        runs(records("fsdd:digit", "caps", ours), records("fsdd:digit", "att", BASE))
    )
    assert found.verdict == verdict
    assert "fsdd:digit: caps - att" in found.evidence and "p = " in found.evidence


def test_a_claim_is_not_supported_by_a_part_of_what_it_says():
    answer = claims.higher("caps", ("att",), ("FSDD", "VCTK"))
    fsdd = runs(records("fsdd:digit", "caps", MUCH), records("fsdd:digit", "att", BASE))
    assert answer(fsdd).verdict == claims.OPEN and answer(fsdd).evidence.endswith("no runs for VCTK")
    one_fold = records("ased:gender", "caps", [0.9]) + records("ased:gender", "att", [0.5])
    assert answer(runs(fsdd.records, one_fold)).verdict == claims.OPEN
    assert answer(runs(one_fold)).verdict == claims.NO_DATA
    assert answer(runs()).verdict == claims.NO_DATA
    whole = runs(fsdd.records, records("ased:gender", "caps", MUCH), records("ased:gender", "att", BASE))
    assert answer(whole).verdict == claims.SUPPORTED


def test_every_stand_in_of_a_corpus_counts_but_none_beside_the_paper_s_own():
    answer = claims.higher("caps", ("att",), ("VCTK",))
    cards = CARDS | {"ravdess:gender": {"role": "P0 VCTK", "evidence": "stand-in"}}
    both = [*records("ased:gender", "caps", MUCH), *records("ased:gender", "att", BASE)]
    both += [*records("ravdess:gender", "caps", BASE), *records("ravdess:gender", "att", MUCH)]
    made = SimpleNamespace(grid=SimpleNamespace(cards=cards), records=both)
    assert answer(made).verdict == claims.REFUTED and "ravdess:gender" in answer(made).evidence
    cards["ased:gender"] = {"role": "P0 VCTK", "evidence": "same corpus"}
    assert answer(made).verdict == claims.SUPPORTED and "ravdess:gender" not in answer(made).evidence


def test_one_counterexample_is_enough_even_if_the_rest_is_not_here():
    fsdd = runs(records("fsdd:digit", "caps", BASE), records("fsdd:digit", "att", MUCH))
    assert claims.higher("caps", ("att",), ("FSDD", "VCTK"))(fsdd).verdict == claims.REFUTED


def test_a_few_pairs_never_support_a_claim():
    three = runs(records("fsdd:digit", "caps", MUCH[:3]), records("fsdd:digit", "att", BASE[:3]))
    found = claims.higher("caps", ("att",), ("FSDD",))(three)
    assert found.verdict == claims.OPEN and "3 pairs" in found.evidence


def test_a_stand_in_is_named():
    made = runs(records("ased:gender", "caps", MUCH), records("ased:gender", "att", BASE))
    assert "ased:gender (stand-in for VCTK): caps - att" in claims.higher("caps", ("att",), ("VCTK",))(made).evidence


def test_synthetic_corpora_never_speak_for_a_claim():
    found = claims.higher("caps", ("att",), ("FSDD",))(
        runs(records("synth_digits:digit", "caps", MUCH), records("synth_digits:digit", "att", BASE))
    )
    assert found.verdict == claims.NO_DATA


def test_overfitting_is_a_wider_gap_and_not_only_a_lower_accuracy():
    answer = claims.overfits("1 pass", "5 passes", "FSDD")
    for training, verdict in ((0.95, claims.SUPPORTED), (0.6, claims.OPEN)):
        made = runs(records("fsdd:digit", "1 pass", MUCH), records("fsdd:digit", "5 passes", BASE, training))
        assert answer(made).verdict == verdict
        assert "training minus test accuracy" in answer(made).evidence


def test_the_largest_lead_must_be_a_lead_and_larger_than_each_other():
    answer = claims.most_on("Urban8K", "caps", "att")
    near, keys = [0.60, 0.62, 0.61, 0.59, 0.60], list(CARDS)[:4]
    base = [records(key, "att", BASE) for key in keys]

    def leads(urban: list[float], elsewhere: list[float]) -> str:
        ours = [records(key, "caps", urban if key.startswith("urban") else elsewhere) for key in keys]
        return answer(runs(*base, *ours)).verdict

    assert leads(MUCH, near) == claims.SUPPORTED
    assert leads(near, MUCH) == claims.REFUTED
    assert (
        leads([0.40, 0.41, 0.42, 0.38, 0.40], [0.1, 0.12, 0.11, 0.09, 0.1]) == claims.OPEN
    )  # a smaller loss is no lead
    assert answer(runs(*base[:2], records(keys[0], "caps", near))).verdict == claims.NO_DATA
    three = [records(key, "caps", MUCH if key.startswith("urban") else near) for key in keys[1:]]
    assert answer(runs(*base, *three)).verdict == claims.OPEN  # FSDD may lie higher


def test_little_data_is_the_corpus_with_the_fewest_training_clips():
    answer, made = claims.most_on(None, "caps", "D = 32"), []
    for clips, key in zip((900, 400, 150, 1700), list(CARDS)[:4], strict=True):
        for system, values in (("caps", MUCH if clips == 150 else BASE), ("D = 32", BASE)):
            sized = {"data": {"clips": {"train": clips, "test": 100}}}
            made += [record | sized for record in records(key, system, values)]
    found = answer(runs(made))
    assert found.verdict == claims.SUPPORTED and found.evidence.startswith(
        "fewest training clips: emodb:emotion4 (150)"
    )


def test_the_source_of_a_transfer_is_named():
    source = {"source": {"corpus": "emodb:emotion4"}}
    ours = [r | {"config": r["config"] | source} for r in records("fsdd:digit", "tiled", MUCH)]
    found = claims.higher("tiled", ("caps",), ("FSDD",))(runs(ours, records("fsdd:digit", "caps", BASE)))
    assert "(source emodb:emotion4, stand-in for IEMOCAP): tiled - caps" in found.evidence


def test_p0_s_own_columns_differ_more_than_its_systems():
    found = claims.resolved(runs())
    assert (
        found.verdict == claims.REFUTED
        and "FSDD: equal columns differ by 0.047, CAPS and ATT by 0.003" in found.evidence
    )


def perturbed(monkeypatch, shares: dict[str, list[float]]) -> SimpleNamespace:
    """Runs whose looks have these shares in two components, by system, one a fold."""

    def looks(runs, look, train, given, system):
        found = enumerate(shares.get(system, []))
        return [{"split": f"s{k % 3}", "seed": k // 3, "pooled": [share - 0.1, 0.1]} for k, share in found]

    monkeypatch.setattr(claims.probes, "run", looks)
    clips = [{"data": {"clips": {"train": 900, "test": 500}}}]
    return SimpleNamespace(of=lambda system: clips)


HIGH, LOW = [0.90, 0.91, 0.89, 0.92, 0.90, 0.91], [0.30, 0.31, 0.29, 0.32, 0.30, 0.31]


@pytest.mark.parametrize(
    "gain, speed, verdict",
    [
        (HIGH, HIGH, claims.SUPPORTED),
        (HIGH, LOW, claims.REFUTED),
        (HIGH, [0.2, 0.9, 0.5] * 2, claims.OPEN),
        (HIGH, HIGH[:3], claims.OPEN),  # three networks are too few, whatever they show
        (HIGH, [], claims.NO_DATA),
    ],
)
def test_most_of_the_variance_is_more_than_half_on_every_perturbation(gain, speed, verdict, monkeypatch):
    runs = perturbed(monkeypatch, {"capsules, gain": gain, "capsules, speed": speed})
    assert claims.above(("gain", "speed"), claims.probes.perturbed.two, 0.5, "of it")(runs).verdict == verdict


@pytest.mark.parametrize(
    "trained, untrained, verdict",
    [
        (HIGH, LOW, claims.SUPPORTED),
        (LOW, HIGH, claims.REFUTED),
        (HIGH, HIGH[::-1], claims.OPEN),
        (HIGH[:3], LOW[:3], claims.OPEN),
        (HIGH, [], claims.NO_DATA),
    ],
)
def test_training_must_add_to_what_an_untrained_network_shows(trained, untrained, verdict, monkeypatch):
    runs = perturbed(monkeypatch, {"capsules, gain": trained, "untrained, gain": untrained})
    assert claims.more_than_untrained(("gain",), claims.probes.perturbed.two)(runs).verdict == verdict


def test_a_claim_may_be_about_another_metric():
    def made(system, values):
        found = records("ased:gender", system, BASE)
        return [r | {"test": r["test"] | {"weighted_accuracy": v}} for r, v in zip(found, values, strict=True)]

    both = runs(made("caps", MUCH), made("att", BASE))
    assert claims.higher("caps", ("att",), ("VCTK",), "weighted_accuracy")(both).verdict == claims.SUPPORTED
    assert claims.higher("caps", ("att",), ("VCTK",))(both).verdict == claims.OPEN


@pytest.mark.parametrize("training, verdict", [(0.95, claims.REFUTED), (0.6, claims.OPEN)])
def test_who_lost_without_having_learnt_its_training_part_refutes_nothing(training, verdict):
    both = runs(records("fsdd:digit", "caps", BASE, training), records("fsdd:digit", "att", MUCH))
    found = claims.higher("caps", ("att",), ("FSDD",))(both)
    assert found.verdict == verdict
    assert ("but caps has not learnt its training part (0.60)" in found.evidence) == (verdict == claims.OPEN)


def test_who_won_against_one_that_has_not_learnt_supports_nothing():
    both = runs(records("fsdd:digit", "caps", MUCH), records("fsdd:digit", "att", BASE, 0.55))
    assert claims.higher("caps", ("att",), ("FSDD",))(both).verdict == claims.OPEN


@pytest.mark.parametrize(("papers", "names"), [(claims, {"P0"}), (claims_emotion, {"P1", "P2"})])
def test_the_ledger_has_a_row_a_claim_and_known_verdicts_only(papers, names):
    ledger, runs = claims.ledger("quick", papers.CLAIMS, papers.grids)
    assert len(ledger) == len(papers.CLAIMS) >= 12 and set(ledger["paper"]) == names
    assert set(ledger["verdict"]) <= {claims.SUPPORTED, claims.REFUTED, claims.OPEN, claims.NO_DATA}
    assert len(runs.records) <= len(runs.grid)


def test_the_report_has_the_claims_of_every_paper(tmp_path, monkeypatch):
    monkeypatch.setattr(report.study, "reports", lambda: tmp_path)
    page = report.write_claims("quick").read_text(encoding="utf-8")
    rows = pd.read_csv(tmp_path / "quick" / "tables" / "claims.csv")
    assert list(dict.fromkeys(rows["paper"])) == ["P0", "P1", "P2"]
    assert f"of {sum(map(len, claims.grids('quick')))} runs have a record" in page
