"""Figures: each writes pictures and the data that they show, the same bytes every time."""

from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest
from fabricated import EMODB, HIGH, LOW, RAVDESS, records, runs_of

from capslib import figures, study
from capslib.statistics import METRICS

matplotlib.use("Agg")
SYSTEMS = ["cnn", "lstm", "att", "caps"]
TABLE_1 = ("P0", "Table 1")


@pytest.fixture(scope="module")
def runs():
    """The accepted quick records, as the notebooks in git show them."""
    return study.run(study.grid(["synth_digits", "synth_gender", "synth_emotion"], SYSTEMS), train=False)


def data(folder, name):
    return pd.read_csv(folder / "figures" / f"{name}.csv")


def test_figures_write_pictures_and_their_data(runs, tmp_path):
    figures.accuracies(runs, SYSTEMS, TABLE_1, "acc", tmp_path)
    figures.learning_curves(runs, SYSTEMS, "curves", tmp_path)
    figures.confusion_matrices(runs, "caps", "confusion", tmp_path)
    for name in ("acc", "curves", "confusion"):
        for suffix in (".png", ".svg", ".csv"):
            assert (tmp_path / "figures" / f"{name}{suffix}").stat().st_size > 100
    clips = data(tmp_path, "confusion").groupby("corpus")["clips"].sum()
    assert clips["synth_digits:digit"] == 360  # every clip was tested once


def test_figure_data_are_the_same_bytes(runs, tmp_path):
    for folder in ("a", "b"):
        figures.accuracies(runs, SYSTEMS, TABLE_1, "acc", tmp_path / folder)
    first, second = (tmp_path / folder / "figures" for folder in ("a", "b"))
    assert (first / "acc.csv").read_bytes() == (second / "acc.csv").read_bytes()
    assert (first / "acc.svg").read_bytes() == (second / "acc.svg").read_bytes()


def test_a_curve_over_an_option_leaves_out_what_has_no_runs(runs, tmp_path):
    options = {"caps": 3.0, "att": 1.0, "none": 5.0}
    figures.over_option(runs, options, "iterations", "curve", tmp_path, published=TABLE_1, places={"caps": "3"})
    curve = data(tmp_path, "curve")
    assert list(curve) == ["corpus", "value", "mean", "low", "high", "training", "runs"]
    assert sorted(set(curve["value"])) == [1.0, 3.0] and set(curve["corpus"]) == set(runs.grid.cards)


def test_a_corpus_with_one_value_is_drawn_only_where_none_has_two(tmp_path):
    made = runs_of(records(EMODB, "CNN_SeqCap", HIGH), keys=(EMODB, RAVDESS))
    options = {"CNN_SeqCap": 3, "CNN_SeqCap, 1 pass": 1}
    places = {"CNN_SeqCap": ("CNN_SeqCap", "3")}
    more = {"metrics": METRICS, "published": ("P2", "Fig. 7"), "places": places, "corpus": "IEMOCAP"}
    figures.over_option(made, options, "iterations", "one", tmp_path, **more)
    one = data(tmp_path, "one")
    assert one[["metric", "value"]].to_numpy().tolist() == [["WA", 3], ["UA", 3]]
    made = runs_of(
        list(made.records),
        records(RAVDESS, "CNN_SeqCap", LOW),
        records(RAVDESS, "CNN_SeqCap, 1 pass", LOW),
        keys=(EMODB, RAVDESS),
    )
    figures.over_option(made, options, "iterations", "two", tmp_path, **more)
    assert set(data(tmp_path, "two")["corpus"]) == {RAVDESS}


def test_the_plane_has_a_panel_for_the_paper_and_one_per_corpus(tmp_path):
    made = runs_of(records(EMODB, "CNN_GRU", LOW), records(EMODB, "CNN_SeqCap", HIGH), keys=(EMODB, RAVDESS))
    systems = {"CNN_GRU": "CNN_GRU", "CNN_SeqCap": "CNN_SeqCap", "CNN [15]": "CNN", "control": None}
    figures.plane(made, systems, METRICS, ("P2", "Table V"), "plane", tmp_path, "IEMOCAP")
    panels = data(tmp_path, "plane")["panel"].value_counts().to_dict()
    assert panels == {"published (IEMOCAP)": 3, f"{EMODB}, stand-in": 2}


def test_a_system_with_fewer_folds_is_left_out_of_the_plane_and_named(tmp_path):
    made = runs_of(
        *(records(EMODB, s, HIGH) for s in ("CNN_GRU", "CNN_SeqCap")), records(EMODB, "CNN_RecCap", HIGH[:2])
    )
    systems = {system: system for system in ("CNN_GRU", "CNN_SeqCap", "CNN_RecCap")}
    figures.plane(made, systems, METRICS, ("P2", "Table V"), "part", tmp_path)
    part = data(tmp_path, "part")
    panel = f"{EMODB}, stand-in, without CNN_RecCap (2 of 5 folds)"
    assert part.loc[part["panel"] == panel, "system"].tolist() == ["CNN_GRU", "CNN_SeqCap"]


def test_every_order_of_the_segments_that_was_run_is_drawn_beside_the_curriculum(tmp_path):
    shuffled, short = (f"CNN_SeqCap, {order}" for order in ("no curriculum", "segments first"))
    made = [records(EMODB, system, HIGH) for system in ("CNN_GRU", "CNN_SeqCap", shuffled)]
    made = runs_of(*made, records(RAVDESS, short, LOW), keys=(EMODB, RAVDESS))
    figures.curricula(
        made, ("CNN_GRU", "CNN_GRU_Att", "CNN_SeqCap"), ("no curriculum", "segments first"), "orders", tmp_path
    )
    curves = data(tmp_path, "orders")
    sizes = curves.groupby(["corpus", "system", "order"]).size()
    assert sizes.to_dict() == {
        (EMODB, "CNN_GRU", "curriculum"): 14,
        (EMODB, "CNN_SeqCap", "curriculum"): 14,
        (EMODB, "CNN_SeqCap", "no curriculum"): 14,
        (RAVDESS, "CNN_SeqCap", "segments first"): 14,
    }
    assert set(curves.loc[curves["corpus"] == EMODB, "runs"]) == {5}
    made = runs_of(records(EMODB, "CNN_SeqCap", LOW[:1] + HIGH[1:]), records(EMODB, shuffled, HIGH[:3])[1:])
    figures.curricula(made, ["CNN_SeqCap"], ["no curriculum"], "shared", tmp_path)
    shared = data(tmp_path, "shared").groupby(["metric", "epoch"])["mean"]
    assert (shared.nunique() == 1).all(), "both orders on the two folds that both have, where they are equal"
    last = curves[(curves["corpus"] == EMODB) & (curves["metric"] == "validation_accuracy") & (curves["epoch"] == 7)]
    assert last["mean"].to_numpy() == pytest.approx(0.802 / 2 + 0.3), "mean over the folds"


def test_nothing_to_draw_is_said_and_not_drawn(tmp_path):
    figures.over_option(runs_of(), {"CNN_SeqCap": 3}, "iterations", "o", tmp_path)
    figures.curricula(runs_of(), ["CNN_SeqCap"], ["no curriculum"], "c", tmp_path)
    figures.learning_curves(runs_of(), ["CNN_SeqCap"], "l", tmp_path)
    assert not (tmp_path / "figures").exists()


def test_real_recordings_are_never_embedded(monkeypatch):
    shown = []
    monkeypatch.setattr(figures.recordings, "display", shown.append)
    figures.player(SimpleNamespace(about=SimpleNamespace(evidence="same corpus")), "a/b")
    assert len(shown) == 1 and "not embedded" in shown[0].data
