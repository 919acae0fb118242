"""Weights that come back, with all that is needed to use them, and predictions that do not depend on batches."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from capslib import corpora, models
from capslib.errors import CapslibError
from capslib.training import LOSSES, Part, evaluate, load_parts, map_clips, predict, restore, train

CPU = torch.device("cpu")


@pytest.fixture
def part(config) -> Part:
    return load_parts(corpora.load(config.corpus), config)["train"]


@pytest.mark.parametrize("model", ["cnn", "lstm", "att", "caps"])
def test_predictions_depend_neither_on_batches_nor_on_order(model, part):
    torch.manual_seed(0)
    net = models.build(model, 60, 3).train()
    net.fit(part)
    expected = predict(net, part, CPU)
    for batch_size in (1, 5, 999):
        torch.testing.assert_close(predict(net, part, CPU, batch_size), expected, rtol=0, atol=1e-5)
    backwards = Part(part.clips[::-1], part.targets.flip(0))
    torch.testing.assert_close(predict(net, backwards, CPU).flip(0), expected, rtol=0, atol=1e-5)


def test_a_function_of_every_clip_comes_in_the_order_of_the_part(part):
    sums = map_clips(lambda features, lengths: features.sum((1, 2)), part, CPU, batch_size=4)
    torch.testing.assert_close(sums, torch.stack([clip.sum() for clip in part.clips]), rtol=1e-4, atol=1e-3)


def metadata(file) -> dict:
    with safe_open(file, "pt") as opened:
        return {name: json.loads(value) for name, value in opened.metadata().items()}


def test_weights_reproduce_the_test_predictions_and_say_what_they_are_for(config, trained):
    record, file = trained
    assert metadata(file) == {
        "model": "caps",
        "options": {},
        "corpus": "folder:tones",
        "classes": ["high", "low", "mid"],
        "sample_rate": 16_000,
        "features": {"kind": "mfcc", "options": []},
    }
    model = models.build("caps", 60, 3)
    model.load_state_dict(load_file(file))
    test = load_parts(corpora.load(config.corpus), config)["test"]
    scores = predict(model, test, CPU)
    assert scores.argmax(-1).tolist() == record["predictions"]
    assert evaluate(scores, test.targets, LOSSES[model.loss]()) == pytest.approx(record["test"], abs=1e-5)


@pytest.mark.parametrize(
    "model, options",
    [("cnn", (("channels", (8, 8)), ("kernel_sizes", (3, 3)), ("pools", (1, 2)))), ("caps", (("num_iterations", 1),))],
)
def test_restored_weights_give_the_recorded_predictions(model, options, config, tmp_path):
    config = dataclasses.replace(config, model=model, options=options, epochs=1)
    record = train(config, tmp_path / "weights.safetensors")
    net = restore(config, tmp_path / "weights.safetensors")
    assert not net.training
    test = load_parts(corpora.load(config.corpus), config)["test"]
    assert predict(net, test, CPU).argmax(-1).tolist() == record["predictions"]


def test_weights_without_sample_rate_and_features_are_restored(config, trained, tmp_path):
    """As they were written before."""
    older = {name: json.dumps(value) for name, value in metadata(trained[1]).items()}
    del older["sample_rate"], older["features"]
    save_file(load_file(trained[1]), tmp_path / "older.safetensors", older)
    ours, theirs = restore(config, tmp_path / "older.safetensors"), restore(config, trained[1])
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_decoder_writes_as_many_frames_as_the_longest_training_clip_has(config, part, tmp_path):
    config = dataclasses.replace(config, model="caps_decoder", epochs=1)
    record = train(config, tmp_path / "weights.safetensors")
    model = restore(config, tmp_path / "weights.safetensors")
    assert model.num_frames == part.lengths.max() and record["config"]["options"] == ()


@pytest.mark.parametrize("trouble", ["cut short", "no weights", "another model's", "not there"])
def test_weights_of_no_use_are_named_with_their_file(trouble, config, trained, tmp_path):
    file, model = tmp_path / "weights.safetensors", "lstm" if trouble == "another model's" else "caps"
    if trouble != "not there":
        whole = trained[1].read_bytes()
        file.write_bytes({"cut short": whole[:-100], "no weights": b"{}"}.get(trouble, whole))
    with pytest.raises(
        CapslibError, match=rf"weights\.safetensors does not hold the weights of {model} on folder:tones"
    ):
        restore(dataclasses.replace(config, model=model), file)
