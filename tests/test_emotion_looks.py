"""Looks at window capsules and input gradients, and the figures of P1 and P2: what must hold whatever a network learnt."""

from __future__ import annotations

import inspect
import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import trees
from fabricated import EMODB, HIGH, LOW, RAVDESS, of, records
from torch import nn

from capslib import (
    claims,
    corpora,
    figures_emotion,
    insight,
    models,
    paths,
    study,
    tables,
    tables_emotion,
    training,
)
from capslib.errors import CapslibError
from capslib.insight.gradients import input_gradients
from capslib.insight.windows import window_lengths, without_recurrence
from capslib.layers import Standardize
from capslib.papers import p2
from capslib.records import source_version
from capslib.runs import Part

matplotlib.use("Agg")
BINS = 24
EMOTIONS = ("angry", "happy", "neutral", "sad")


def fresh(name: str) -> models.AudioModel:
    torch.manual_seed(0)
    return models.build(name, BINS, 4).eval()


def part(*lengths: int, seed: int = 0) -> Part:
    random = torch.Generator().manual_seed(seed)
    clips = [torch.randn(n, BINS, generator=random) for n in lengths]
    return Part(clips, torch.arange(len(lengths)) % 4)


class Cells(nn.Module):
    """A sum of chosen cells, as the only score that can win; the others are far below."""

    def __init__(self, of_loud: bool) -> None:
        super().__init__()
        self.standardize, self.of_loud = Standardize(BINS), of_loud

    def forward(self, features, lengths):
        x = self.standardize(features)
        score = 0.5 * (x.clamp_min(0) ** 2).sum((1, 2)) if self.of_loud else x.sum((1, 2))
        return torch.stack([score, *[torch.full_like(score, -1e6)] * 3], dim=-1)


def test_the_longest_clip_is_shown_window_by_window():
    look = window_lengths(fresh("cnn_seqcap"), part(30, 130, 90))
    clip = look["clip"]
    assert np.array(clip["lengths"]).shape == (6, 8)  # 40 frames every 20: the last window holds what is left
    assert clip["frames"] == [20.0, 40.0, 60.0, 80.0, 100.0, 120.0] and clip["target"] == 1
    assert 0 < look["length"] < 1 and 0 <= look["full"] <= 1 and look["within"] > 0 and look["between"] > 0
    assert -1 <= look["likeness"] <= 1 and -1 <= look["loudness"] <= 1
    json.dumps(look)


def test_a_sound_that_does_not_change_has_the_same_capsules_in_every_window():
    same = torch.randn(1, BINS, generator=torch.Generator().manual_seed(1)).expand(200, BINS).clone()
    look = window_lengths(fresh("cnn_seqcap"), Part([same], torch.tensor([0])))
    inner = np.array(look["clip"]["lengths"])[1:-1]
    assert np.abs(inner - inner[0]).max() < 1e-4 and look["between"] == 0.0
    assert look["loudness"] == pytest.approx(0.0, abs=1e-6)


def test_branches_beside_a_gru_have_window_capsules_and_the_gru_has_none():
    assert window_lengths(fresh("cnn_gru_reccap"), part(130))["length"] > 0
    with pytest.raises(CapslibError, match="CNNGRU has no window capsules: choose CNN_SeqCap or CNN_RecCap"):
        window_lengths(fresh("cnn_gru"), part(130))
    with pytest.raises(CapslibError, match="no test clip has four windows"):
        window_lengths(fresh("cnn_seqcap"), part(50))


def test_windows_that_hear_only_the_one_before_have_no_loudness_to_follow():
    model = fresh("cnn_reccap")
    with torch.no_grad():  # recurrent votes that drown all others: in every window but the first the longest is one
        model.head.capsules.recurrent.weight.mul_(1e4)
    look = window_lengths(model, part(130, 150))
    assert look["loudness"] is None
    shown = tables_emotion.along([heads(look, EMODB, "CNN_RecCap")]).iloc[0]
    assert shown["correlation of the longest with loudness"] == "" and shown["length"] != ""


def test_a_network_that_hears_nothing_of_the_window_before_may_tell_otherwise():
    model = fresh("cnn_reccap")
    clips = part(*[130] * 12)
    look = without_recurrence(model, clips)
    told = training.predict(model, clips, torch.device("cpu")).argmax(-1)
    assert look["accuracy"] == pytest.approx(float((told == clips.targets).double().mean()), abs=1e-4)
    with torch.no_grad():  # recurrent votes that drown all others
        model.head.capsules.recurrent.weight.mul_(1e4)
    loud = without_recurrence(model, clips)
    assert loud["changed"] > 0 and loud["without"] == look["without"]
    assert model.head.capsules.recurrent.weight.abs().max() > 0  # the model itself is left as it was
    deaf = fresh("cnn_reccap")
    torch.nn.init.zeros_(deaf.head.capsules.recurrent.weight)
    assert without_recurrence(deaf, clips)["changed"] == 0
    with pytest.raises(CapslibError, match="CNNSeqCap has no recurrent capsules: choose CNN_RecCap"):
        without_recurrence(fresh("cnn_seqcap"), clips)
    assert tables_emotion.deafened([heads(look, EMODB, "CNN_RecCap")])["networks"].tolist() == [1]


def test_a_gradient_lies_where_the_score_comes_from():
    loud, everywhere = (input_gradients(Cells(flag), part(50, 60, 70)) for flag in (True, False))
    assert loud["correlation"] > 0.7 and loud["loudest"] > 0.3
    assert everywhere["correlation"] == 0.0 and everywhere["loudest"] == pytest.approx(0.1, abs=0.01)
    assert loud["clip"]["frames"] == 60 and loud["clip"]["predicted"] == 0 and loud["clip"]["target"] == 1
    assert np.array(loud["clip"]["gradient"]).shape == np.array(loud["clip"]["spectrogram"]).shape == (60, BINS)
    assert np.max(loud["clip"]["gradient"]) == 1.0
    json.dumps(loud)


def test_a_gradient_is_that_of_standardized_bins():
    model = Cells(of_loud=False)
    with torch.no_grad():
        model.standardize.scale.copy_(torch.linspace(0.1, 10, BINS))
    assert np.ptp(input_gradients(model, part(50))["clip"]["gradient"]) == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize("name", ["cnn_gru_att", "cnn_seqcap", "cnn_gru_seqcap"])
def test_long_maps_are_averaged_down_and_every_system_shows_the_same_clip(name):
    look = input_gradients(fresh(name), part(400, 8, 170))
    assert look["clip"]["frames"] == 170 and np.array(look["clip"]["gradient"]).shape == (120, BINS)
    assert 0.1 <= look["largest"] <= 1


def heads(look: dict, corpus: str, system: str) -> dict:
    return {"corpus": corpus, "split": "fold1", "seed": 0, "system": system} | look


def test_looks_become_tables_and_figures(tmp_path):
    found = [heads(window_lengths(fresh("cnn_seqcap"), part(130, 90)), EMODB, s) for s in ("CNN_SeqCap", "CNN_RecCap")]
    figures_emotion.windows(found, EMOTIONS, "windows", tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "windows.csv")
    assert len(data) == 2 * 6 * 8 and set(data["system"]) == {"CNN_SeqCap", "CNN_RecCap"}
    assert tables_emotion.along(found)["networks"].tolist() == [1, 1]
    maps = [heads(input_gradients(Cells(flag), part(50)), EMODB, str(flag)) for flag in (True, False)]
    figures_emotion.gradients(maps, EMOTIONS, "gradients", tmp_path)
    assert len(pd.read_csv(tmp_path / "figures" / "gradients.csv")) == 3 * 50
    assert tables_emotion.followed(maps)["correlation with the spectrogram"].tolist()[1] == "0.000"


def test_the_plane_and_the_passes_show_what_was_run(tmp_path):
    made = of(records(EMODB, "CNN_GRU", LOW), records(EMODB, "CNN_SeqCap", HIGH), keys=(EMODB, RAVDESS))
    figures_emotion.plane(made, ["CNN_GRU", "CNN_SeqCap", "CNN [15]"], "plane", tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "plane.csv")
    assert data["panel"].value_counts().to_dict() == {"published (IEMOCAP)": 3, f"{EMODB}, stand-in": 2}
    part = of(list(made.records), records(EMODB, "CNN_RecCap", HIGH[:2]), keys=(EMODB, RAVDESS))
    figures_emotion.plane(part, ["CNN_GRU", "CNN_SeqCap", "CNN_RecCap"], "part", tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "part.csv")
    panel = f"{EMODB}, stand-in, without CNN_RecCap (2 of 5 folds)"
    assert data.loc[data["panel"] == panel, "system"].tolist() == ["CNN_GRU", "CNN_SeqCap"]
    figures_emotion.over_passes(made, {"CNN_SeqCap": 3, "CNN_SeqCap, 1 iteration": 1}, "passes", tmp_path)
    assert pd.read_csv(tmp_path / "figures" / "passes.csv")["passes"].tolist() == [3, 3]


def test_a_corpus_that_is_not_here_is_named_where_only_records_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    grid = study.Grid("full", (), {}, {"iemocap:emotion4": "ask for it"})
    assert claims.recorded(grid, of().grid).grid.absent == {"iemocap:emotion4": "ask for it"}
    row = tables.describe({}, grid.absent).iloc[0]
    assert row[["corpus", "evidence", "remarks"]].tolist() == ["iemocap:emotion4", "not here", "ask for it"]


def test_every_order_of_the_segments_that_was_run_is_drawn_beside_the_curriculum(tmp_path):
    shuffled, short = (f"CNN_SeqCap, {order}" for order in ("no curriculum", "segments first"))
    made = [records(EMODB, system, HIGH) for system in ("CNN_GRU", "CNN_SeqCap", shuffled)]
    made = of(*made, records(RAVDESS, short, LOW), keys=(EMODB, RAVDESS))
    figures_emotion.curricula(made, p2.TABLE_IV, ("no curriculum", "segments first"), "orders", tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "orders.csv")
    found = data.groupby(["corpus", "system", "order"]).size()
    assert found.to_dict() == {
        (EMODB, "CNN_GRU", "curriculum"): 14,
        (EMODB, "CNN_SeqCap", "curriculum"): 14,
        (EMODB, "CNN_SeqCap", "no curriculum"): 14,
        (RAVDESS, "CNN_SeqCap", "segments first"): 14,
    }
    assert set(data.loc[data["corpus"] == EMODB, "runs"]) == {5}
    made = of(records(EMODB, "CNN_SeqCap", LOW[:1] + HIGH[1:]), records(EMODB, shuffled, HIGH[:3])[1:])
    figures_emotion.curricula(made, ["CNN_SeqCap"], ["no curriculum"], "shared", tmp_path)
    shared = pd.read_csv(tmp_path / "figures" / "shared.csv").groupby(["metric", "epoch"])["mean"]
    assert (shared.nunique() == 1).all(), "both orders on the two folds that both have, where they are equal"
    last = data[(data["corpus"] == EMODB) & (data["metric"] == "validation_accuracy") & (data["epoch"] == 7)]
    assert last["mean"].to_numpy() == pytest.approx(0.802 / 2 + 0.3), "mean over the folds"


def test_nothing_to_show_is_said_and_not_drawn(tmp_path):
    figures_emotion.windows([], EMOTIONS, "w", tmp_path)
    figures_emotion.gradients([], EMOTIONS, "g", tmp_path)
    figures_emotion.over_passes(of(), {"CNN_SeqCap": 3}, "p", tmp_path)
    figures_emotion.curricula(of(), ["CNN_SeqCap"], ["no curriculum"], "c", tmp_path)
    assert not (tmp_path / "figures").exists()
    assert tables_emotion.along([]).empty and tables_emotion.followed([]).empty


# --- averages of two systems ---------------------------------------------------------------------------------------


def part_of_an_average(system: str, probabilities: list[list[float]], split: str = "fold1") -> tuple[dict, dict]:
    """A record and a look at the same four clips of two speakers."""
    place = {"corpus": "c", "split": split, "seed": 0}
    record = {
        "system": system,
        "key": system,
        "config": place | {"model": system},
        "parameters": 10,
        "classes": ["angry", "sad"],
        "train": {"accuracy": 0.9 if system == "a" else 0.8},
        "test": {"accuracy": 0.5, "unweighted_accuracy": 0.5},
    }
    look = place | {"system": system, "probabilities": probabilities}
    return record, look | {"targets": [0, 0, 1, 1], "units": ["f", "m", "f", "m"]}


def test_an_average_is_of_probabilities_and_not_of_votes():
    first = part_of_an_average("a", [[0.9, 0.1], [0.4, 0.6], [0.45, 0.55], [0.9, 0.1]])
    second = part_of_an_average("b", [[0.4, 0.6], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    alone = part_of_an_average("a", first[1]["probabilities"], "fold2")
    grid = study.Grid("full", (), {}, {})
    runs = study.Runs(grid, (first[0], second[0], alone[0]), (), (), ())
    both = insight.averaged(runs, {"a + b": ("a", "b")}, [first[1], second[1], alone[1]])
    assert both.records[:3] == runs.records and len(both.records) == 4  # a fold with one of them has no average
    made = both.of(system="a + b")[0]
    # means: .65, .65 for angry; .525 and .6 for angry, where sad is right
    assert made["predictions"] == [0, 0, 0, 0] and made["confusion"] == [[2, 0], [2, 0]]
    assert made["test"]["accuracy"] == made["test"]["unweighted_accuracy"] == 0.5
    assert made["units"] == {"f": [1, 2], "m": [1, 2]} and made["parameters"] == 20
    assert made["train"] == {"accuracy": 0.8} and made["config"]["model"] == "a + b"


def test_probabilities_are_the_model_s_and_stand_beside_their_speakers():
    corpus = corpora.load("synth_emotion:emotion")
    config = study.grid(["synth_emotion"], ["lstm"], "quick", folds=1).runs[0].config
    part, units = insight.test_units(config)
    assert units == [str(u) for u in corpus.table.loc[list(corpus.split(config.split).test), "unit"]]
    torch.manual_seed(0)
    model = models.build("lstm", part.clips[0].shape[1], len(corpus.classes))
    look = insight.probabilities(model, part, units)
    found = np.array(look["probabilities"])
    assert found.shape == (len(part), len(corpus.classes)) and np.allclose(found.sum(1), 1, atol=1e-5)
    assert look["targets"] == part.targets.tolist() and len(look["units"]) == len(part)
    scores = training.predict(model, part, torch.device("cpu"))
    assert (found.argmax(1) == scores.argmax(1).numpy()).all()
    with pytest.raises(CapslibError, match="gives lengths of capsules, not probabilities"):
        insight.probabilities(models.build("caps", part.clips[0].shape[1], len(corpus.classes)), part, units)


@pytest.mark.parametrize(("kept", "verdict"), [(True, claims.SUPPORTED), (False, claims.NO_DATA)])
def test_the_ledger_reads_the_looks_that_the_notebook_keeps(kept, verdict, data_folder, tmp_path, monkeypatch):
    """Each of two networks is sure where the other errs by little: what the notebook keeps of them, the ledger averages."""
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    trees.emodb(data_folder / "emodb")
    grid = p2.grid([EMODB], "full", ["CNN_GRU", "CNN_SeqCap"], seeds=(0,))
    made = []
    for run in grid.runs:
        _, units = insight.test_units(run.config)
        ours = run.system == "CNN_GRU"
        targets = [k % 4 for k in range(len(units))]
        sure = [[0.97 if c == t else 0.01 for c in range(4)] for t in targets]
        wrong = [[0.5 if c == (t + 1) % 4 else 0.4 if c == t else 0.05 for c in range(4)] for t in targets]
        half = [s if (k % 2 == 0) == ours else w for k, (s, w) in enumerate(zip(sure, wrong, strict=True))]
        look = {"probabilities": half, "targets": targets, "units": units}
        record = records(EMODB, run.system, [0.5] * 5)[int(run.config.split[-1]) - 1]
        record |= {"key": run.key, "parameters": 1, "classes": list(EMOTIONS), "train": {"accuracy": 1.0}}
        made.append(record)
        if kept:
            code = source_version(inspect.getmodule(insight.probabilities), insight.test_units)
            file = tmp_path / "full" / "insight" / f"probabilities-{run.key}.json"
            paths.write_text(file, json.dumps({"code": code} | look))
    runs = study.Runs(grid, tuple(made), (), (), ())
    answer = claims.higher(["CNN_GRU + CNN_SeqCap"], ["CNN_GRU"], ["IEMOCAP"])
    assert answer(p2.averages(runs)).verdict == verdict
    notebook = insight.averages(runs, p2.AVERAGED, train=False)
    assert len(notebook.records) - len(made) == (5 if kept else 0)
