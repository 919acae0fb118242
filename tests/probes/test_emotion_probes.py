"""Window capsules, recurrence and input gradients: what must hold whatever a network learnt."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import EMODB, EMOTIONS
from torch import nn

from capslib import models, probes, training
from capslib.errors import CapslibError
from capslib.layers import Standardize
from capslib.probes import gradients, recurrence, windows
from capslib.probes.gradients import input_gradients
from capslib.probes.recurrence import without_recurrence
from capslib.probes.windows import window_lengths
from capslib.training import Part

matplotlib.use("Agg")
BINS = 24


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
    result = window_lengths(fresh("cnn_seqcap"), part(30, 130, 90))
    clip = result["clip"]
    assert np.array(clip["lengths"]).shape == (6, 8)  # 40 frames every 20: the last window holds what is left
    assert clip["frames"] == [20.0, 40.0, 60.0, 80.0, 100.0, 120.0] and clip["target"] == 1
    assert 0 < result["length"] < 1 and 0 <= result["full"] <= 1 and result["within"] > 0 and result["between"] > 0
    assert -1 <= result["likeness"] <= 1 and -1 <= result["loudness"] <= 1
    json.dumps(result)


def test_a_sound_that_does_not_change_has_the_same_capsules_in_every_window():
    same = torch.randn(1, BINS, generator=torch.Generator().manual_seed(1)).expand(200, BINS).clone()
    result = window_lengths(fresh("cnn_seqcap"), Part([same], torch.tensor([0])))
    inner = np.array(result["clip"]["lengths"])[1:-1]
    assert np.abs(inner - inner[0]).max() < 1e-4 and result["between"] == 0.0
    assert result["loudness"] == pytest.approx(0.0, abs=1e-6)


def test_branches_beside_a_gru_have_window_capsules_and_the_gru_has_none():
    assert window_lengths(fresh("cnn_gru_reccap"), part(130))["length"] > 0
    with pytest.raises(CapslibError, match="CNNGRU has no window capsules: choose CNN_SeqCap or CNN_RecCap"):
        window_lengths(fresh("cnn_gru"), part(130))
    with pytest.raises(CapslibError, match="no test clip has four windows"):
        window_lengths(fresh("cnn_seqcap"), part(50))


def test_windows_that_depend_only_on_the_one_before_have_no_loudness_to_follow():
    model = fresh("cnn_reccap")
    with torch.no_grad():  # recurrent votes that drown all others: in every window but the first the longest is one
        model.head.capsules.recurrent.weight.mul_(1e4)
    result = window_lengths(model, part(130, 150))
    assert result["loudness"] is None
    shown = probes.table([heads(result, EMODB, "CNN_RecCap")], windows.COLUMNS).iloc[0]
    assert shown["correlation of the longest with loudness"] == "" and shown["length"] != ""


def test_a_network_without_the_window_before_may_predict_otherwise():
    model = fresh("cnn_reccap")
    clips = part(*[130] * 12)
    result = without_recurrence(model, clips)
    predicted = training.predict(model, clips, torch.device("cpu")).argmax(-1)
    assert result["accuracy"] == pytest.approx(float((predicted == clips.targets).double().mean()), abs=1e-4)
    with torch.no_grad():  # recurrent votes that drown all others
        model.head.capsules.recurrent.weight.mul_(1e4)
    loud = without_recurrence(model, clips)
    assert loud["changed"] > 0 and loud["without"] == result["without"]
    assert model.head.capsules.recurrent.weight.abs().max() > 0  # the model itself is left as it was
    cut = fresh("cnn_reccap")
    torch.nn.init.zeros_(cut.head.capsules.recurrent.weight)
    assert without_recurrence(cut, clips)["changed"] == 0
    with pytest.raises(CapslibError, match="CNNSeqCap has no recurrent capsules: choose CNN_RecCap"):
        without_recurrence(fresh("cnn_seqcap"), clips)
    assert probes.table([heads(result, EMODB, "CNN_RecCap")], recurrence.COLUMNS)["networks"].tolist() == [1]


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
    result = input_gradients(fresh(name), part(400, 8, 170))
    assert result["clip"]["frames"] == 170 and np.array(result["clip"]["gradient"]).shape == (120, BINS)
    assert 0.1 <= result["largest"] <= 1


def heads(result: dict, corpus: str, system: str) -> dict:
    return {"corpus": corpus, "split": "fold1", "seed": 0, "system": system} | result


def test_results_become_tables_and_figures(tmp_path):
    results = [
        heads(window_lengths(fresh("cnn_seqcap"), part(130, 90)), EMODB, s) for s in ("CNN_SeqCap", "CNN_RecCap")
    ]
    windows.draw(results, EMOTIONS, "windows", tmp_path)
    data = pd.read_csv(tmp_path / "figures" / "windows.csv")
    assert len(data) == 2 * 6 * 8 and set(data["system"]) == {"CNN_SeqCap", "CNN_RecCap"}
    assert probes.table(results, windows.COLUMNS)["networks"].tolist() == [1, 1]
    maps = [heads(input_gradients(Cells(flag), part(50)), EMODB, str(flag)) for flag in (True, False)]
    gradients.draw(maps, EMOTIONS, "gradients", tmp_path)
    assert len(pd.read_csv(tmp_path / "figures" / "gradients.csv")) == 3 * 50
    assert probes.table(maps, gradients.COLUMNS)["correlation with the spectrogram"].tolist()[1] == "0.000"


def test_nothing_to_show_is_said_and_not_drawn(tmp_path):
    windows.draw([], EMOTIONS, "w", tmp_path)
    gradients.draw([], EMOTIONS, "g", tmp_path)
    assert not (tmp_path / "figures").exists()
    assert probes.table([], windows.COLUMNS).empty and probes.table([], gradients.COLUMNS).empty
