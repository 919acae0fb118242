"""P1's and P2's protocol and tables: published and ours are never mixed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import trees
from fabricated import EMODB, HIGH, LOW, RAVDESS, of, records

from capslib import corpora, statistics, tables_emotion
from capslib.errors import CapslibError

# --- protocol ------------------------------------------------------------------------------------------------------


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
    with pytest.raises(CapslibError, match="corpus 'emodb': no pair has clips of both its speakers"):
        corpora.load("emodb:emotion4_p2")


# --- tables --------------------------------------------------------------------------------------------------------


def test_published_and_ours_have_rows_of_their_own_and_what_is_missing_is_said(tmp_path):
    made = of(records(EMODB, "CNN_GRU", LOW), keys=(EMODB, RAVDESS))
    places = {"CNN_GRU": ("CNN_GRU", ""), "CNN_SeqCap": ("CNN_SeqCap", "")}
    tables_emotion.scores(made, places, "P2", "Table V", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str, keep_default_na=False)
    rows = frame.set_index(["system", "corpus"])
    assert rows.loc[("CNN_GRU", "IEMOCAP"), ["evidence", "WA", "UA"]].tolist() == ["published", "0.670", "0.518"]
    assert rows.loc[("CNN_GRU", EMODB), "WA"].startswith("0.505 [")
    assert rows.loc[("CNN_GRU", EMODB), "runs"] == "5 of 5 folds, 1 seed(s), 5 runs"
    assert rows.loc[("CNN_GRU", RAVDESS), "WA"] == rows.loc[("CNN_SeqCap", EMODB), "UA"] == "not run yet"
    assert (frame["evidence"] == "published").sum() == 2 and set(frame["evidence"]) == {"published", "stand-in"}


def test_a_curriculum_has_two_published_rows(tmp_path):
    places = {"CNN_GRU": ("CNN_GRU", "curriculum"), "CNN_GRU, no curriculum": ("CNN_GRU", "no curriculum")}
    tables_emotion.scores(of(), places, "P2", "Table IV", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str)
    assert frame.loc[frame["evidence"] == "published", ["WA", "UA"]].to_numpy().tolist() == [
        ["0.670", "0.518"],
        ["0.673", "0.515"],
    ]


def test_confusions_are_shares_of_the_true_class_in_the_paper_s_order(tmp_path):
    made = of(records(EMODB, "CNN_SeqCap", LOW, happy=0.3))
    tables_emotion.confusions(made, "CNN_SeqCap", "P2", "Table VI", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str).set_index(["true", "evidence"])
    assert list(dict.fromkeys(true for true, _ in frame.index)) == list(tables_emotion.EMOTIONS)
    assert frame.loc[("Happy", "published"), "predicted Happy"] == "0.017"
    assert frame.loc[("Happy", "stand-in"), ["predicted Neutral", "predicted Happy"]].tolist() == ["0.700", "0.300"]
    assert frame.loc[("Happy", "stand-in"), "clips"] == "50"


def test_a_class_that_a_corpus_lacks_is_left_empty(tmp_path):
    made = of(records(EMODB, "CNN_SeqCap", LOW), records(EMODB, "b", LOW))
    for record in made.records:
        record["classes"] = ["angry", "neutral", "sad"]
        record["confusion"] = [[5, 2, 0], [1, 9, 0], [0, 3, 7]]
    tables_emotion.confusions(made, "CNN_SeqCap", "P2", "Table VI", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str).set_index(["true", "evidence"])
    assert (
        pd.isna(frame.loc[("Happy", "stand-in"), "predicted Sad"])
        and frame.loc[("Sad", "stand-in"), "predicted Sad"] == "0.700"
    )
    assert statistics.paired_tests(made, [("CNN_SeqCap", "b")], ["recall of happy"])["n"].item() == 0


def test_pooled_counts_weigh_clips_and_not_folds():
    made = of(records(EMODB, "a", LOW[:2]))
    made.records[0]["confusion"] = np.diag([90, 0, 0, 0]).tolist()
    made.records[1]["confusion"] = [[0, 0, 10, 0], [0, 0, 5, 0], [0, 0, 0, 0], [0, 0, 0, 5]]
    table = tables_emotion.pooled(made, ["a", "b"]).set_index("system")
    row, commonest = table.loc["a"], table.loc["always the commonest class"]
    assert (commonest["WA"], commonest["UA"]) == (f"{100 / 110:.3f}", f"{1 / 3:.3f}")
    folds = tables_emotion.per_fold(made, ["a", "b"]).set_index("fold")
    assert folds.loc["fold2", ["angry clips", "happy clips", "a", "b"]].tolist() == [10, 5, "0.520", "not run yet"]
    assert (row["WA"], row["UA"], row["clips of a seed"]) == (f"{95 / 110:.3f}", f"{(0.9 + 0 + 1) / 3:.3f}", "110")


def test_tests_are_shown_in_points_and_counted():
    tests = statistics.paired_tests(of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW)), [("a", "b"), ("a", "c")])
    assert tables_emotion.decided(tests).startswith(f"{EMODB}: 1 of 1 comparisons higher, 0 lower; the median interval")
    rows = tables_emotion.readable(tests).set_index("comparison")
    assert rows.loc["a - b", ["metric", "ours in points", "verdict"]].tolist() == ["WA", "+29.80", "higher"]
    assert rows.loc["a - c", ["ours in points", "verdict"]].tolist() == ["", "not run yet"]
