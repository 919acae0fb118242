"""What is in a run's record: everything that a cell of a table must trace to, and nothing about who trained it."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

import numpy as np
import pytest
from tiny import register

from capslib import corpora, models, paths
from capslib.corpora.folder import source as folder_source
from capslib.training import RunConfig, train


def test_a_record_holds_what_a_table_cell_must_trace_to(config, trained):
    """Configuration, seed, fold, data fingerprint, kind of machine, seconds, results of every epoch."""
    record, _ = trained
    corpus = corpora.load(config.corpus)
    assert record["config"] == config.described()
    assert record["config"]["seed"] == 0 and record["config"]["split"] == "fold1"
    assert record["data"]["fingerprint"] == corpus.split_fingerprint("fold1")
    split = corpus.split("fold1")
    assert record["data"]["clips"] == {part: len(getattr(split, part)) for part in ("train", "validation", "test")}
    assert record["classes"] == ["high", "low", "mid"]
    assert record["parameters"] == models.count_parameters(models.build("caps", 60, 3))
    assert [entry["epoch"] for entry in record["epochs"]] == [1, 2, 3]
    for entry in record["epochs"]:
        assert set(entry) >= {"train_loss", "validation_loss", "validation_accuracy", "validation_unweighted_accuracy"}
    for part in ("train", "validation", "test"):
        assert set(record[part]) == {"loss", "accuracy", "unweighted_accuracy"}
    provenance = record["provenance"]
    assert set(provenance) >= {"seconds", "seconds_per_epoch", "device", "machine", "torch", "python", "date"}
    assert provenance["seconds"] >= provenance["seconds_per_epoch"] > 0
    assert platform.machine() in provenance["machine"]


def test_a_record_says_nothing_about_who_trained_it(trained, tones):
    text = json.dumps(trained[0])
    assert len(platform.node()) < 6 or platform.node() not in text  # a host called "cores" would be no leak
    assert str(tones) not in text and str(Path.home()) not in text


def test_a_record_survives_json(config, trained):
    for record in (trained[0], train(dataclasses.replace(config, epochs=0))):
        text = json.dumps(record, allow_nan=False)
        assert json.dumps(json.loads(text)) == text


def test_confusion_units_and_predictions_belong_together(config):
    # Hardly trained, so that there is something to confuse.
    record = train(dataclasses.replace(config, model="cnn", epochs=1, learning_rate=1e-4))
    corpus = corpora.load(config.corpus)
    labels = corpus.table.loc[list(corpus.split("fold1").test), "label"]
    true = [record["classes"].index(label) for label in labels]
    confusion = np.zeros((3, 3), int)
    for t, p in zip(true, record["predictions"], strict=True):
        confusion[t, p] += 1  # rows are the true classes
    assert (confusion != confusion.T).any()
    assert record["confusion"] == confusion.tolist()
    assert record["test"]["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-6)
    recalls = np.diag(confusion) / confusion.sum(1)
    assert record["test"]["unweighted_accuracy"] == pytest.approx(recalls.mean(), abs=1e-6)
    assert record["units"] == {"fold1": [int(np.trace(confusion)), len(true)]}


@pytest.fixture
def multi_label(config, monkeypatch) -> RunConfig:
    """The tiny corpus with two labels in place of three classes: "mid" is both, "high" and "low" are one each."""
    plain = folder_source(paths.data() / "tones", "tones")
    task = dataclasses.replace(plain.tasks["tones"], multi_label=True)

    def read(folder: Path):
        table, missing = plain.read(folder)
        return table.replace({"label": {"mid": "high+low"}}), missing

    register(monkeypatch, dataclasses.replace(plain, name="chords", read=read, tasks={"tones": task}))
    return dataclasses.replace(config, corpus="chords:tones", epochs=8)


@pytest.mark.parametrize("model", ["att", "caps"])
def test_a_run_with_several_labels_per_clip(model, multi_label):
    record = train(dataclasses.replace(multi_label, model=model))
    assert record["classes"] == ["high", "low"]
    for part in ("train", "validation", "test"):
        assert set(record[part]) == {"loss", "accuracy", "unweighted_accuracy", "weighted_accuracy"}
    assert record["test"]["weighted_accuracy"] > 0.8
    names = ["+".join(name for k, name in enumerate(("high", "low")) if code >> k & 1) for code in range(4)]
    assert set(record["label_sets"]) >= {"high", "low", "high+low"} and set(record["label_sets"]) <= set(names)
    corpus = corpora.load(multi_label.corpus)
    labels = corpus.table.loc[list(corpus.split("fold1").test), "label"]
    confusion = np.zeros((len(record["label_sets"]),) * 2, int)
    for true, predicted in zip(labels, record["predictions"], strict=True):
        confusion[record["label_sets"].index(true), record["label_sets"].index(names[predicted])] += 1
    assert record["confusion"] == confusion.tolist()
    assert record["test"]["accuracy"] == pytest.approx(np.trace(confusion) / len(labels), abs=1e-6)
    assert record["units"] == {"fold1": [int(np.trace(confusion)), len(labels)]}
    json.dumps(record, allow_nan=False)
