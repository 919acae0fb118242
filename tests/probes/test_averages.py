"""Averages of two systems' probabilities, and what the ledger reads of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import trees
from fabricated import EMODB, EMOTIONS, records

from capslib import claims, corpora, models, paths, probes, study, training
from capslib.errors import CapslibError
from capslib.papers import p2
from capslib.probes import averaged


def part_of_an_average(system: str, probabilities: list[list[float]], split: str = "fold1") -> tuple[dict, dict]:
    """A record and the probabilities of the same four clips of two speakers."""
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
    result = place | {"system": system, "probabilities": probabilities}
    return record, result | {"targets": [0, 0, 1, 1], "units": ["f", "m", "f", "m"]}


def test_an_average_is_of_probabilities_and_not_of_votes():
    first = part_of_an_average("a", [[0.9, 0.1], [0.4, 0.6], [0.45, 0.55], [0.9, 0.1]])
    second = part_of_an_average("b", [[0.4, 0.6], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    alone = part_of_an_average("a", first[1]["probabilities"], "fold2")
    grid = study.Grid("full", (), {}, {})
    runs = study.Runs(grid, (first[0], second[0], alone[0]), (), (), ())
    both = averaged.averaged(runs, {"a + b": ("a", "b")}, [first[1], second[1], alone[1]])
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
    part, units = averaged.test_units(config)
    assert units == [str(u) for u in corpus.table.loc[list(corpus.split(config.split).test), "unit"]]
    torch.manual_seed(0)
    model = models.build("lstm", part.clips[0].shape[1], len(corpus.classes))
    result = averaged.probabilities(model, part, units)
    probabilities = np.array(result["probabilities"])
    assert probabilities.shape == (len(part), len(corpus.classes)) and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert result["targets"] == part.targets.tolist() and len(result["units"]) == len(part)
    scores = training.predict(model, part, torch.device("cpu"))
    assert (probabilities.argmax(1) == scores.argmax(1).numpy()).all()
    with pytest.raises(CapslibError, match="gives lengths of capsules, not probabilities"):
        averaged.probabilities(models.build("caps", part.clips[0].shape[1], len(corpus.classes)), part, units)


@pytest.mark.parametrize(("stored", "verdict"), [(True, claims.SUPPORTED), (False, claims.NO_DATA)])
def test_the_ledger_reads_the_probabilities_that_the_notebook_stores(
    stored, verdict, data_folder, tmp_path, monkeypatch
):
    """Each of two networks is sure where the other errs by little; the ledger averages what the notebook stores."""
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    trees.emodb(data_folder / "emodb")
    grid = p2.grid([EMODB], "full", ["CNN_GRU", "CNN_SeqCap"], seeds=(0,))
    made = []
    for run in grid.runs:
        _, units = averaged.test_units(run.config)
        ours = run.system == "CNN_GRU"
        targets = [k % 4 for k in range(len(units))]
        sure = [[0.97 if c == t else 0.01 for c in range(4)] for t in targets]
        wrong = [[0.5 if c == (t + 1) % 4 else 0.4 if c == t else 0.05 for c in range(4)] for t in targets]
        half = [s if (k % 2 == 0) == ours else w for k, (s, w) in enumerate(zip(sure, wrong, strict=True))]
        result = {"probabilities": half, "targets": targets, "units": units}
        record = records(EMODB, run.system, [0.5] * 5)[int(run.config.split[-1]) - 1]
        record |= {"key": run.key, "parameters": 1, "classes": list(EMOTIONS), "train": {"accuracy": 1.0}}
        made.append(record)
        if stored:
            code = probes.code_of(run.config.described(), "probabilities")
            file = tmp_path / "full" / "probes" / f"probabilities-{run.key}.json"
            paths.write_text(file, json.dumps({"code": code} | result))
    runs = study.Runs(grid, tuple(made), (), (), ())
    answer = claims.higher(["CNN_GRU + CNN_SeqCap"], ["CNN_GRU"], ["IEMOCAP"])
    assert answer(p2.PAPER.derived(runs)).verdict == verdict
    notebook = probes.averages(runs, p2.AVERAGED, train=False)
    assert len(notebook.records) - len(made) == (5 if stored else 0)
