"""How tables are shown, and tables of corpora and of our own records."""

import numpy as np
import pandas as pd
from fabricated import CARDS, EMODB, HIGH, LOW, RAVDESS, records, runs_of

from capslib import papers, study, tables
from capslib.statistics import METRICS, paired_tests


def test_cells_can_be_bold(tmp_path):
    frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    page = tables.show(frame, "t", "caption", tmp_path, pd.DataFrame({"a": [False], "b": [True]})).data
    assert "#T_t_row0_col1 {\n  font-weight: bold" in page and "#T_t_row0_col0 {" not in page


def test_a_table_without_rows_says_so(tmp_path):
    shown = tables.show(pd.DataFrame(columns=["corpus", "system"]), "t", "c", tmp_path).data
    assert "not run yet" in shown
    assert pd.read_csv(tmp_path / "tables" / "t.csv")["corpus"].tolist() == ["not run yet"]


def test_captions_are_text_not_markup(tmp_path):
    page = tables.show(pd.DataFrame({"a": [1]}), "t", "p < 0.05 & more", tmp_path).data
    assert "p &lt; 0.05 &amp; more" in page


def test_every_role_of_the_papers_is_listed_with_how_to_get_it():
    roles = tables.roles(
        papers.declared(), {"synth_digits:digit": {"role": "", "evidence": "synthetic", "missing": []}}
    )
    assert set(roles["evidence"]) == {"not available"} and (roles["how to get it"] != "").all()
    assert len(roles) >= 12


def test_stand_ins_fill_their_role_under_their_own_name():
    cards = {
        "ased:gender": {"role": "P0 VCTK", "evidence": "stand-in", "missing": ["a remark"]},
        "fsdd:digit": {"role": "P0 FSDD", "evidence": "same corpus", "missing": []},
        "urbansound8k:sound": {"role": "P0 Urban8K", "evidence": "same corpus", "missing": ["folds 3 to 9"]},
    }
    roles = tables.roles(papers.declared(), cards).set_index(["paper", "corpus"])
    assert roles.loc[("P0", "Urban8K"), "evidence"] == "same corpus, incomplete"
    assert roles.loc[("P0", "VCTK"), "in this run"] == "ased:gender"
    assert roles.loc[("P0", "VCTK"), "evidence"] == "stand-in"
    assert roles.loc[("P0", "FSDD"), "evidence"] == "same corpus"


def test_a_corpus_that_is_not_available_is_named_with_how_to_get_it():
    row = tables.describe({}, {"iemocap:emotion4": "ask for it"}).iloc[0]
    assert row[["corpus", "evidence", "remarks"]].tolist() == ["iemocap:emotion4", "not available", "ask for it"]


def test_models_are_titled_in_capitals_and_other_systems_as_they_are_called():
    assert [tables.title(system) for system in ("caps", "CNN_GRU", "5 iterations")] == [
        "CAPS",
        "CNN_GRU",
        "5 iterations",
    ]


def test_folds_have_the_mean_of_the_seeds_that_all_systems_have():
    runs = study.run(study.grid(["synth_digits"], ["cnn", "caps"]), train=False)
    table = tables.per_fold(runs).set_index("split")
    first = [r for r in runs.of(system="caps") if r["config"]["split"] == table.index[0]]
    assert list(table) == ["corpus", "seeds", "CNN", "CAPS"]
    assert table["CAPS"].iloc[0] == np.mean([record["test"]["accuracy"] for record in first])
    assert (table["seeds"] == len(first)).all()
    assert tables.per_fold(runs_of()).empty


def test_pooled_counts_weigh_clips_and_not_folds():
    made = runs_of(records(EMODB, "a", LOW[:2]))
    for record in made.records:
        record |= {"key": "k", "parameters": 1, "chosen_epoch": 1, "provenance": {"seconds": 1}}
        record |= {"validation": record["test"], "data": {"clips": {"train": 1, "test": 1}}}
        record["config"]["options"] = []
    made.records[0]["confusion"] = np.diag([90, 0, 0, 0]).tolist()
    made.records[1]["confusion"] = [[0, 0, 10, 0], [0, 0, 5, 0], [0, 0, 0, 0], [0, 0, 0, 5]]
    table = tables.pooled(made, ["a", "b"]).set_index("system")
    row, commonest = table.loc["a"], table.loc["always the commonest class"]
    assert (commonest["WA"], commonest["UA"]) == (f"{100 / 110:.3f}", f"{1 / 3:.3f}")
    assert (row["WA"], row["UA"], row["clips of a seed"]) == (f"{95 / 110:.3f}", f"{(0.9 + 0 + 1) / 3:.3f}", "110")
    folds = tables.per_fold(made, ["a", "b"], clips=True).set_index("fold")
    assert folds.loc["fold2", ["angry clips", "happy clips", "a", "b"]].tolist() == [10, 5, "0.520", "not run yet"]


def test_paired_tests_are_counted_and_shown_in_points():
    made = runs_of(records(EMODB, "a", HIGH), records(EMODB, "b", LOW), keys=(EMODB, RAVDESS))
    tests = paired_tests(made, [("a", "b")], METRICS.values())
    first, second = tables.verdict_counts(tests).splitlines()
    assert first.startswith(f"{EMODB}: 2 of 2 comparisons higher, 0 lower; the median interval reaches")
    assert second == f"{RAVDESS}: no comparison has two pairs of runs."
    row = tables.in_points(tests).iloc[0]
    assert row["metric"] == "WA" and row["ours in points"] == "+29.80"


def test_a_caption_says_how_many_seeds_there_are():
    made = runs_of(records(EMODB, "a", LOW), keys=(EMODB, RAVDESS))
    assert tables.extent(made, ["a"]) == f"Ours: {EMODB} one seed, {RAVDESS} not run yet."
    assert CARDS[EMODB]["evidence"] == tables.evidence(CARDS[EMODB]) == "stand-in"
