"""Runs with a source: trained once, its vectors handed over, and sources that do not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from tiny import register, write_folder

from capslib import corpora, features, models, paths, records, study
from capslib.corpora.folder import source as folder_source
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.training import RunConfig, Transfer, restore, train


@pytest.fixture
def transfer(config, tones, monkeypatch) -> RunConfig:
    """A run with a source on another corpus of the same sample rate; no source is trained yet."""
    if not (tones / "chirps").is_dir():
        write_folder(tones / "chirps", clips_a_class=6, seed=7)
    register(monkeypatch, dataclasses.replace(folder_source(tones / "chirps", "chirps"), name="chirps"))
    shutil.rmtree(paths.cache() / "sources", ignore_errors=True)
    source = RunConfig("chirps:chirps", "fold1", "caps", (("capsule_features", 4),), epochs=1, batch_size=8)
    return dataclasses.replace(config, source=source, epochs=1)


def trained_sources() -> dict[str, int]:
    """When each file of a trained source was written."""
    return {file.name: file.stat().st_mtime_ns for file in (paths.cache() / "sources").glob("*.safetensors")}


def test_vectors_are_the_source_s_embedding_of_each_clip(transfer):
    handed = study.source_of(transfer)
    (name,) = trained_sources()
    source = restore(transfer.source, paths.cache() / "sources" / name)
    corpus = corpora.load(transfer.corpus)
    extracted = features.extract(corpus, transfer.features)
    assert handed.vectors.shape == (len(corpus.table), 3 * 4)
    for row, vector in enumerate(handed.vectors):
        clip = torch.from_numpy(extracted[row].copy())
        with torch.inference_mode():
            expected = source.embed(clip[None], torch.tensor([len(clip)]))[0]
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)


def test_a_source_is_trained_once_and_read_again(transfer):
    first = train(transfer, source=study.source_of(transfer))
    files = trained_sources()
    assert first["parameters"] == models.count_parameters(models.build("caps", 60 + 3 * 4, 3))
    assert first["config"]["source"] == transfer.source.described()
    alone = json.loads(json.dumps(train(transfer.source)))
    assert first["source"] == {name: alone[name] for name in first["source"]}
    assert records.comparable(train(transfer, source=study.source_of(transfer))) == records.comparable(first)
    other = dataclasses.replace(transfer, seed=1, model="lstm")
    assert train(other, source=study.source_of(other))["source"] == first["source"]
    assert trained_sources() == files and len(files) == 1
    study.source_of(dataclasses.replace(transfer, source=dataclasses.replace(transfer.source, seed=1)))
    assert len(trained_sources()) == 2


def test_a_joined_network_reads_its_source(transfer):
    options = (("source_capsules", 3), ("source_features", 12))
    joined = dataclasses.replace(transfer, model="caps_joined", options=options)
    record = train(joined, source=study.source_of(joined))
    assert len(record["epochs"]) == 1 and record["source"]["config"]["model"] == "caps"
    other = dataclasses.replace(joined, options=(("source_capsules", 3), ("source_features", 6)))
    with pytest.raises(CapslibError, match="its source gives 12 numbers per clip: leave source_features out"):
        train(other, source=study.source_of(other))


def test_a_source_must_be_handed_over_if_and_only_if_the_run_has_one(config, transfer):
    assert study.source_of(config) is None
    with pytest.raises(CapslibError, match=r"caps on folder:tones.* do not agree: hand over what study.source_of"):
        train(transfer)
    with pytest.raises(CapslibError, match="do not agree"):
        train(config, source=Transfer(torch.zeros(30, 2), {}))


@pytest.mark.parametrize(
    "changes, says",
    [
        (
            {"corpus": "folder:tones"},
            r"caps on folder:tones.*: the source has clips of this corpus: transfer needs another one",
        ),
        ({"features": FeatureConfig("spectrogram")}, r"the source has other features .*spectrogram.*: use the same"),
        ({"corpus": "low:low"}, r"the source low has 8000 Hz and folder has 16000 Hz: choose a source of the same"),
        ({"split": "fold9"}, r"unknown split of corpus 'chirps' 'fold9'"),
    ],
)
def test_a_source_that_does_not_fit_is_named(changes, says, transfer, tones, monkeypatch):
    low = dataclasses.replace(folder_source(tones / "chirps", "low", sample_rate=8000), name="low", folder="chirps")
    register(monkeypatch, low)
    with pytest.raises(CapslibError, match=says):
        study.source_of(dataclasses.replace(transfer, source=dataclasses.replace(transfer.source, **changes)))
    assert not trained_sources()
