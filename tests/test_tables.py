"""Tables and figures: what they say, that they say it the same way twice, and that evidence is never mixed."""

import matplotlib
import pandas as pd
import pytest

from capslib import figures, figures_insight, papers, paths, study, tables
from capslib.errors import CapslibError

matplotlib.use("Agg")
SYSTEMS = ["cnn", "lstm", "att", "caps"]


@pytest.fixture(scope="module")
def runs():
    """The accepted quick records, as the notebooks in git show them."""
    return study.run(study.grid(["synth_digits", "synth_gender", "synth_emotion"], SYSTEMS), train=False)


def test_the_same_table_is_the_same_bytes(runs, tmp_path):
    pages = [tables.compare(runs, SYSTEMS, "P0", "Table 1", "t", tmp_path).data for _ in range(2)]
    assert pages[0] == pages[1]
    assert "T_t" in pages[0], "the random id of a styled table must be replaced"


def test_published_values_and_ours_never_share_a_row(runs, tmp_path):
    tables.compare(runs, SYSTEMS, "P0", "Table 1", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str, keep_default_na=False)
    published = frame[frame["evidence"] == "published"].set_index("corpus")
    assert published.loc["FSDD", SYSTEMS_TITLES].tolist() == ["0.728", "0.673", "0.689", "0.692"]
    ours = frame[frame["corpus"].str.startswith("synth")]
    assert set(ours["evidence"]) == {"synthetic"} and len(ours) == 3
    assert ours["CAPS"].str.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]").all()


def test_systems_of_other_names_stand_below_the_paper_s_columns(runs, tmp_path):
    tables.compare(runs, {"caps": "3", "att": "1"}, "P0", "Table 1", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str, keep_default_na=False)
    fsdd = frame[(frame["evidence"] == "published") & (frame["corpus"] == "FSDD")]
    assert fsdd[["3", "1"]].to_numpy().tolist() == [["0.695", "0.760"]]
    with pytest.raises(CapslibError, match="unknown column of P0 Table 1 'CAP': did you mean 'CAPS'"):
        tables.compare(runs, {"caps": "CAP"}, "P0", "Table 1", "t", tmp_path)


def test_a_curve_over_an_option_leaves_out_what_has_no_runs(runs, tmp_path):
    figures.over_option(runs, {"caps": 3.0, "att": 1.0, "none": 5.0}, "passes", "curve", tmp_path, {"caps": "3"})
    data = pd.read_csv(tmp_path / "figures" / "curve.csv")
    assert sorted(set(data["value"])) == [1.0, 3.0] and set(data["corpus"]) == set(runs.grid.cards)
    figures.over_option(runs, {"none": 5.0}, "passes", "nothing", tmp_path)
    assert not (tmp_path / "figures" / "nothing.csv").exists()


def test_no_look_is_said_and_not_drawn(tmp_path, capsys):
    figures_insight.couplings([], "couplings", tmp_path)
    assert not (tmp_path / "figures" / "couplings.png").exists()


SYSTEMS_TITLES = ["CNN", "LSTM", "ATT", "CAPS"]


def test_an_absent_corpus_is_said_to_be_absent(runs, tmp_path):
    tables.compare(runs, SYSTEMS, "P0", "Table 1", "t", tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "t.csv", dtype=str, keep_default_na=False)
    assert (frame["evidence"] == "not in this run").sum() == 4


def test_the_best_of_a_row_is_bold(tmp_path):
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
    assert set(roles["evidence"]) == {"not here"} and (roles["how to get it"] != "").all()
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


def test_published_csv_is_whole():
    everything = pd.read_csv(paths.root() / "data" / "published.csv", dtype=str, keep_default_na=False)
    assert list(everything) == ["paper", "table", "row", "column", "metric", "unit", "value", "note"]
    assert not everything.duplicated(["paper", "table", "row", "column", "metric"]).any()
    assert everything["value"].map(float).notna().all()
    assert set(everything["paper"]) == {"P0", "P1", "P2", "P3", "P4"}
    told = (paths.root() / "data" / "published.md").read_text()
    assert f"{len(everything)} numbers" in told
    for paper, rows in everything["paper"].value_counts().items():
        assert f"| {paper} | {rows} |" in told
    table = tables.published("P0", "Table 1")
    assert table.shape == (4, 9) and table.loc["Urban8K", "CAPS"] == 0.662


def test_figures_write_pictures_and_their_data(runs, tmp_path):
    figures.accuracies(runs, SYSTEMS, "P0", "Table 1", "acc", tmp_path)
    figures.learning_curves(runs, SYSTEMS, "curves", tmp_path)
    figures.confusion_matrices(runs, "caps", "confusion", tmp_path)
    for name in ("acc", "curves", "confusion"):
        for suffix in (".png", ".svg", ".csv"):
            assert (tmp_path / "figures" / f"{name}{suffix}").stat().st_size > 100
    data = pd.read_csv(tmp_path / "figures" / "confusion.csv")
    assert data[data["corpus"] == "synth_digits:digit"]["clips"].sum() == 360  # every clip was tested once


def test_figure_data_are_the_same_bytes(runs, tmp_path):
    for folder in ("a", "b"):
        figures.accuracies(runs, SYSTEMS, "P0", "Table 1", "acc", tmp_path / folder)
    first, second = (tmp_path / folder / "figures" for folder in ("a", "b"))
    assert (first / "acc.csv").read_bytes() == (second / "acc.csv").read_bytes()
    assert (first / "acc.svg").read_bytes() == (second / "acc.svg").read_bytes()


def test_real_recordings_are_never_embedded(monkeypatch):
    from types import SimpleNamespace

    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figures.player(SimpleNamespace(about=SimpleNamespace(evidence="same corpus")), "a/b")
    assert len(shown) == 1 and "not embedded" in shown[0].data
