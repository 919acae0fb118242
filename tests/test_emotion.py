"""P1's and P2's protocol, recipe, own tables and ledger: verdicts follow from records."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import trees
from synthetic_records import CARDS, EMODB, HIGH, LOW, RAVDESS, SPLITS, records
from synthetic_records import runs_of as of

from capslib import (
    claims_emotion,
    corpora,
    implied,
    models,
    published,
    recipes,
    runs,
    statistics_emotion,
    tables,
    tables_emotion,
)
from capslib.claims import NO_DATA, OPEN, REFUTED, SUPPORTED
from capslib.errors import CapslibError

# --- protocol and recipe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "tester", "other"), [("emotion4_p2", "male", "female"), ("emotion4_p2_swapped", "female", "male")]
)
def test_emodb_one_speaker_of_a_pair_validates_and_the_other_tests(data_folder, task, tester, other):
    trees.emodb(data_folder / "emodb")
    corpus = corpora.load("emodb", task)
    assert [split.name for split in corpus.splits] == [f"fold{n}" for n in range(1, 6)]
    for split in corpus.splits:
        train, validation, test = (corpus.table.loc[list(p)] for p in (split.train, split.validation, split.test))
        assert (set(test["gender"]), set(validation["gender"])) == ({tester}, {other})
        assert train["speaker"].nunique() == 8 and test["speaker"].nunique() == validation["speaker"].nunique() == 1
        assert not set(train["speaker"]) & {*test["speaker"], *validation["speaker"]}
    assert f"its {tester} speaker tests" in corpus.about.protocol and corpus.about.role == "P1 IEMOCAP"
    assert corpora.load("emodb").key == "emodb:emotion4"


def test_emodb_without_a_whole_pair_says_so(data_folder):
    trees.emodb(data_folder / "emodb", speakers=("03", "10"))
    with pytest.raises(CapslibError, match="corpus 'emodb': no fold has clips of both its speakers"):
        corpora.load("emodb:emotion4_p2")


@pytest.mark.parametrize(("rate", "bins"), [(16_000, 512), (8_000, 400)])
def test_spectrograms_keep_10_hertz_a_bin(rate, bins):
    made = recipes.spectrogram(rate).build(rate)
    assert rate / made.n_fft == 10 and made.out_features == bins and made.frame_length == 0.04 * rate


def test_systems_are_the_papers_and_their_variants():
    systems = recipes.p2_systems(epochs=2)
    printed = {row for row, _, _ in published.values("P2", "Table V")}
    assert {name.removesuffix(" [15]") for name in recipes.TABLE_V} == printed
    for name, (model, options, changes) in systems.items():
        models.entries()[model].config(**options)
        config = runs.RunConfig("c", "s", model, tuple(options.items()), **changes)
        assert config.epochs == 2 and config.schedule == "loss_decay"
        assert config.segment_frames == (1000 if name in ("LSTM_Cap", "LSTM_Cap, no curriculum") else 200)
        assert config.order in runs.ORDERS
        assert (config.order == "random") == name.endswith("no curriculum")
    assert dict(systems["CNN_SeqCap, 2 passes"][1]) == {"num_iterations": 2}


def test_a_grid_goes_seed_by_seed_and_system_by_system():
    grid = recipes.p2_grid(
        ["synth_emotion", "iemocap"], "quick", ["CNN_RecCap", "CNN_GRU"], range(2), folds=2, epochs=1
    )
    assert list(grid.absent) == ["iemocap:emotion4"] and len(grid) == 8
    order = [(run.config.seed, run.system) for run in grid.runs]
    assert order == sorted(order, key=lambda pair: (pair[0], ["CNN_GRU", "CNN_RecCap"].index(pair[1])))
    assert dict(grid.runs[0].config.features.options) == {"n_fft": 800, "num_bins": 400}
    with pytest.raises(CapslibError, match="unknown system of P2 'CNN_GRUU': did you mean 'CNN_GRU'"):
        recipes.p2_grid(["synth_emotion"], "quick", ["CNN_GRUU"])


# --- tables --------------------------------------------------------------------------------------------------------


def test_counts_are_published_and_equal():
    counts = tables_emotion.parameter_counts()
    assert len(counts) == 7 and set(counts[""]) == {"equal"} and (counts["published"] == counts["ours"]).all()
    literal = tables_emotion.literal_counts().set_index("published")
    assert literal.loc["833,012", "would count"] == "144,884"
    assert (literal["would count"] != literal.index).all()
    biases = literal[literal["taken literally"].str.contains("b_ij")]
    assert (
        biases["would count"].item() == f"{703_540 - 64 + 1_280 * 64:,}"
    )  # a bias for each of 1,280 x 8 capsules of 8


def test_a_class_that_a_corpus_lacks_has_no_test():
    made = of(records(EMODB, "CNN_SeqCap", LOW), records(EMODB, "b", LOW))
    for record in made.records:
        record["classes"] = ["angry", "neutral", "sad"]
        record["confusion"] = [[5, 2, 0], [1, 9, 0], [0, 3, 7]]
    assert statistics_emotion.paired(made, [("CNN_SeqCap", "b")], ["recall of happy"])["n"].item() == 0
    assert claims_emotion.hardest(("CNN_SeqCap",), "happy")(made).verdict == NO_DATA


def test_segments_are_those_that_training_cuts(data_folder):
    trees.emodb(data_folder / "emodb")
    corpus = corpora.load(EMODB)
    row = tables_emotion.segments({EMODB: {}, RAVDESS: {}}, frames=4, window=3)
    clips = [torch.zeros(1 + (len(corpus.audio(item)) - 640) // 160, 1) for item in corpus.table.index]
    pieces = runs.Part(clips, torch.zeros(len(clips))).segmented(4).lengths
    assert list(row["corpus"]) == [EMODB] and row["segments"].item() == len(pieces)
    assert row["of 4 frames"].item() == f"{np.mean(pieces == 4):.0%}" != "100%"
    assert row["below 3"].item() == f"{np.mean(pieces < 3):.0%}" != "0%"


def test_whole_counts_leave_few_totals_open():
    assert implied.fitting_totals([0.5, 0.25, 0.25], 8, 1e-6) == [4, 8]
    assert 7 in implied.fitting_totals([round(k / 7, 4) for k in (3, 3, 1)], 20)
    assert implied.fitting_totals([0.12345, 0.87655], 50, 1e-6) == []
    found = implied.tested_totals()
    assert found["Angry"] == {"CNN_SeqCap": [155], "CNN_RecCap": [138, 276]}
    assert set(implied.tested_apart()) == {"Neutral", "Angry", "Sad"}  # of happy no total fits SeqCap's row
    rows = implied.accuracies((1128, 1089)).set_index(["table", "system"])
    assert rows.loc[("Table V", "CNN_SeqCap"), ["of 1,128", "of 1,089"]].tolist() == ["788", ""]


def test_utterances_are_counted_or_said_to_be_elsewhere(data_folder):
    trees.emodb(data_folder / "emodb")
    frame = tables_emotion.utterances({key: CARDS[key] for key in (EMODB, RAVDESS)}).set_index("corpus")
    assert frame.loc["IEMOCAP, improvised", "Happy"] == "284" and frame.loc[EMODB, "Happy"] == "10"
    assert frame.loc[RAVDESS, "Sad"] == "recordings not here"


def test_the_text_s_comparisons_stand_beside_ours():
    tests = tables_emotion.text_tests(of(records(EMODB, "CNN_SeqCap", HIGH), records(EMODB, "CNN_GRU_Att", LOW)))
    assert tables.verdict_counts(tests).startswith(f"{EMODB}: 2 of 2 comparisons higher, 0 lower; the median interval")
    found = tables.in_points(tests)
    rows = found.set_index(["comparison", "metric"])
    ours = rows.loc[("CNN_SeqCap - CNN_GRU_Att", "WA")]
    assert ours["published gain in points"] == "+1.66" and ours["published p"] == "< 0.05"  # 69.86 - 68.20
    assert ours["ours in points"] == "+29.80" and ours["verdict"] == "higher"
    assert rows.loc[("CNN_RecCap - CNN [15]", "UA"), "verdict"] == "not run yet"
    assert rows.loc[("CNN_RecCap - CNN_GRU", "WA"), "published gain in points"] == "+3.42"  # as quoted, not 3.60


def test_the_share_of_test_clips_counts_clips_and_not_segments():
    """A record counts segments of the training part: its own ratio would make the test too sure of itself."""
    made = records(EMODB, "a", HIGH) + records(EMODB, "b", LOW)
    for record in made:
        record["data"] = {"clips": {"train": 100_000, "test": 25}}
    test = statistics_emotion.paired(of(made), [("a", "b")], ["accuracy"]).iloc[0]
    differences = np.subtract(HIGH, LOW)
    error = np.sqrt(differences.var(ddof=1) * (1 / 5 + 25 / 100))
    assert (test["high"] - test["low"]) / 2 == pytest.approx(2.776445 * error, rel=1e-4)


def test_what_other_systems_have_run_does_not_change_a_test():
    made = of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW))
    uneven = {name: part | {"test": 5 * (k + 1)} for k, (name, part) in enumerate(SPLITS.items())}
    made.grid.cards[EMODB] = CARDS[EMODB] | {"splits": uneven}
    more = of(list(made.records), records(EMODB, "c", LOW[:1]))
    more.grid.cards[EMODB] = made.grid.cards[EMODB]
    first, second = (statistics_emotion.paired(runs, [("a", "b")]) for runs in (made, more))
    pd.testing.assert_frame_equal(first, second)


def test_holm_corrects_over_all_rows_and_one_pair_is_no_test():
    made = of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW), records(EMODB, "c", LOW[:1]))
    rows = statistics_emotion.paired(made, [("a", "b"), ("a", "c"), ("a", "d")]).set_index(["comparison", "metric"])
    assert rows.loc[("a - b", "accuracy"), "p (Holm)"] == pytest.approx(2 * rows.loc[("a - b", "accuracy"), "p"])
    assert set(rows.loc["a - c", "verdict"]) == {"one fold only"} and set(rows.loc["a - d", "verdict"]) == {
        "not run yet"
    }


# --- ledger --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emodb", "ravdess", "verdict"),
    [
        (HIGH, HIGH, SUPPORTED),
        (HIGH, LOW[::-1], OPEN),
        (HIGH, [0.2, 0.21, 0.22, 0.18, 0.2], REFUTED),
        (HIGH, [], OPEN),
        (HIGH[:3], HIGH[:3], OPEN),
        ([], [], NO_DATA),
    ],
)
def test_each_stand_in_must_agree(emodb, ravdess, verdict):
    keys = (EMODB, RAVDESS)
    base = [record for key in keys for record in records(key, "b", LOW)]
    made = of(records(EMODB, "a", emodb), records(RAVDESS, "a", ravdess), base, keys=keys)
    found = claims_emotion.higher(("a",), ("b",))(made)
    assert found.verdict == verdict
    assert found.evidence.endswith(f"too few runs on {RAVDESS}") == (bool(emodb) and not ravdess)


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
    made = of(records(EMODB, "a", HIGH), records(EMODB, "b", other))
    assert claims_emotion.alike([("a", "b")], ("accuracy",))(made).verdict == verdict


def test_alike_is_not_refuted_by_what_is_not_significant():
    """Of eight comparisons one differs by chance, with an interval of its own beyond a point."""
    once = [v - d for v, d in zip(HIGH, (0.04, 0.09, 0.05, 0.10, 0.06), strict=True)]
    alone = of(records(EMODB, "a", HIGH), records(EMODB, "c", once))
    pairs = [("a", "c"), *(("a", f"b{k}") for k in range(7))]
    assert claims_emotion.alike(pairs[:1], ("accuracy",))(alone).verdict == REFUTED
    noisy = [records(EMODB, f"b{k}", [0.80, 0.70, 0.90, 0.75, 0.85]) for k in range(7)]
    assert claims_emotion.alike(pairs, ("accuracy",))(of(list(alone.records), *noisy)).verdict == OPEN


def test_one_that_has_not_learnt_decides_nothing():
    made = of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW))
    assert claims_emotion.higher(("a",), ("b",))(made).verdict == SUPPORTED
    for record in made.records[5:]:
        record["train"] = {"accuracy": 0.55, "unweighted_accuracy": 0.55}
    found = claims_emotion.higher(("a",), ("b",))(made)
    assert (
        found.verdict == OPEN and "5 pairs of 1 seed, but b has not learnt its training part (0.55)" in found.evidence
    )
    assert set(statistics_emotion.paired(made, [("a", "b")])["verdict"]) == {
        "b has not learnt its training part (0.55)"
    }


def test_training_is_expedited_where_the_first_epochs_are_better():
    made = of(records(EMODB, "a", HIGH), records(EMODB, "a, no curriculum", LOW))
    assert claims_emotion.helps("no curriculum", ("a",), (statistics_emotion.EARLY,))(made).verdict == SUPPORTED
    first = [epoch["validation_accuracy"] for epoch in made.records[0]["epochs"][:5]]
    assert statistics_emotion.metric_of(made.records[0], statistics_emotion.EARLY) == pytest.approx(np.mean(first))


def test_synthetic_corpora_never_speak():
    key = "synth_emotion:emotion"
    made = of(records(key, "a", HIGH), records(key, "b", LOW), keys=(key,))
    assert claims_emotion.higher(("a",), ("b",))(made).verdict == NO_DATA


def test_more_help_is_a_difference_of_gains():
    def verdict(ours: list[float], others: list[float]) -> str:
        plain = [records(EMODB, f"{system}, no curriculum", LOW) for system in ("a", "b")]
        made = of(records(EMODB, "a", ours), records(EMODB, "b", others), *plain)
        return claims_emotion.helps_more("no curriculum", ("a",), ("b",))(made).verdict

    less = [value - 0.15 for value in HIGH]
    assert verdict(HIGH, [v + 0.01 for v in LOW]) == SUPPORTED  # both gain, one of them more
    assert verdict(less, [0.9, 0.92, 0.95, 0.88, 0.93]) == REFUTED and verdict(HIGH, HIGH) == OPEN


def test_the_hardest_class_has_the_lowest_recall():
    made = of(records(EMODB, "CNN_SeqCap", LOW, happy=0.1), records(EMODB, "CNN_RecCap", LOW, happy=0.9))
    assert claims_emotion.hardest(("CNN_SeqCap",), "happy")(made).verdict == SUPPORTED
    assert claims_emotion.hardest(("CNN_SeqCap",), "neutral")(made).verdict == REFUTED
    assert claims_emotion.hardest(("CNN_RecCap",), "happy")(made).verdict == OPEN  # as hard as angry and sad
    assert claims_emotion.hardest(("CNN_SeqCap", "CNN_RecCap"), "happy")(made).verdict == OPEN


@pytest.mark.parametrize(("lead", "verdict"), [(0.3, SUPPORTED), (-0.3, REFUTED), (0.0, OPEN), (None, NO_DATA)])
def test_a_gradient_follows_by_its_correlation(lead, verdict, monkeypatch):
    def looks(runs, look, train, system, corpus):
        values = (
            [] if lead is None else [0.4 + lead * (system == "a") + v * (system == "a") for v in np.array(LOW) - 0.504]
        )
        return [{"split": f"fold{k}", "seed": 0, "correlation": value} for k, value in enumerate(values, start=1)]

    monkeypatch.setattr(claims_emotion.probes, "run", looks)
    assert claims_emotion.follows("a", "b")(of(records(EMODB, "a", LOW))).verdict == verdict


def test_a_recall_of_a_class_that_no_clip_has_is_left_out():
    made = records(EMODB, "a", HIGH) + records(EMODB, "b", HIGH)
    made[0]["confusion"][1] = [0, 0, 0, 0]
    assert statistics_emotion.paired(of(made), [("a", "b")], ["recall of happy"])["n"].item() == 4


def test_every_claim_answers_where_nothing_was_run():
    found = [claim.answer(of()) for claim in claims_emotion.CLAIMS]
    assert {claim.paper for claim in claims_emotion.CLAIMS} == {"P1", "P2"} and len(found) >= 20
    assert {finding.verdict for finding in found} == {NO_DATA, SUPPORTED, REFUTED}
    told = {claim.words: finding for claim, finding in zip(claims_emotion.CLAIMS, found, strict=True)}
    own = {words: finding for words, finding in told.items() if words.startswith("our question")}
    counts = own["our question: its parameter counts can be reproduced"]
    assert counts.verdict == SUPPORTED and counts.evidence.startswith("7 of 7")
    table = own["our question: in the paper's own table each capsule system gains more than each recurrent one"]
    assert table.verdict == REFUTED and "CNN_GRU_Att +1.82" in table.evidence and "LSTM_Cap +0.72" in table.evidence
    assert own["our question: its quoted gains are the differences of its table"].verdict == REFUTED


def test_claims_name_systems_that_the_grid_has(monkeypatch):
    asked = set()

    def remember(runs, key, first, second, metric):
        asked.update((first, second))
        return {}

    monkeypatch.setattr(statistics_emotion, "gains", remember)
    for claim in claims_emotion.CLAIMS:
        claim.answer(of())
    assert asked <= {*recipes.p2_systems(), *recipes.AVERAGED} and len(asked) > 15
