"""Features of whole corpora: those of their clips, computed once, plain and perturbed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import SAMPLE_RATE, write_folder

from capslib import corpora, features
from capslib.errors import CapslibError
from capslib.features import MFCC, FeatureConfig, extract


def one(module: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    """Features of one clip alone: (frames, features)."""
    values, num_frames = module(torch.as_tensor(np.array(samples))[None], torch.tensor([len(samples)]))
    return values[0, : num_frames[0]].numpy()


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A tiny corpus called tones, another one with other samples for each seed."""
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "cache"))

    def load(seed: int = 0, spoil: str = "") -> corpora.Corpus:
        folder = write_folder(tmp_path / f"data{seed}" / "tones", seed=seed)
        if spoil:
            (folder / spoil).write_bytes(b"")
        monkeypatch.setenv("CAPSLIB_DATA", str(folder.parent))
        return corpora.load("folder:tones")

    return load


@pytest.fixture
def corpus(load):
    return load()


@pytest.mark.parametrize("config", [FeatureConfig(), FeatureConfig("spectrogram")], ids=["mfcc", "spectrogram"])
@pytest.mark.parametrize("batch_seconds", [0.01, 0.5, 20.0])
def test_features_of_a_corpus_are_those_of_its_clips(corpus, config, batch_seconds):
    extracted = extract(corpus, config, batch_seconds=batch_seconds)
    module = config.build(corpus.sample_rate)
    assert extracted.hop_seconds == 0.01
    for item, row in corpus.table["row"].items():
        alone = one(module, corpus.audio(item))
        np.testing.assert_allclose(extracted[row], alone, atol=1e-5)
        assert extracted.lengths[row] == len(alone)


def test_features_are_computed_once(corpus, monkeypatch):
    first = np.array(extract(corpus).frames)
    monkeypatch.setattr(features.MFCC, "forward", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(extract(corpus).frames, first)


def test_features_follow_the_audio_and_the_options(corpus, load):
    options = FeatureConfig("mfcc", (("n_mels", 30),))
    assert not np.array_equal(extract(corpus, options).frames, extract(corpus).frames)
    other = load(seed=1)  # the same names, other samples
    assert other.key == corpus.key
    assert not np.array_equal(extract(other)[0], extract(corpus)[0])


def test_features_broken_off_are_made_again(corpus, tmp_path, monkeypatch):
    whole = np.array(extract(corpus).frames)
    for file in (tmp_path / "cache" / "features").iterdir():
        file.unlink()
    save = np.save

    def full_disk(file, array):
        save(file, array[: len(array) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(features.np, "save", full_disk)
        with pytest.raises(CapslibError, match="No space left on device"):
            extract(corpus)
    assert not list((tmp_path / "cache" / "features").iterdir())
    np.testing.assert_array_equal(extract(corpus).frames, whole)


def test_a_clip_that_cannot_be_used_has_no_frames(load):
    corpus = load(spoil="low/00.wav")
    extracted = extract(corpus)
    assert len(extracted.lengths) == 30 and (extracted.lengths == 0).sum() == 1
    item = corpus.table.index[-1]
    np.testing.assert_allclose(
        extracted[corpus.table.loc[item, "row"]], one(MFCC(16000), corpus.audio(item)), atol=1e-5
    )


# --- Features of perturbed clips


@pytest.mark.parametrize("perturbation", [("gain", 0.0), ("offset", 0.0), ("speed", 1.0)])
def test_features_at_the_neutral_level_are_the_plain_ones(perturbation, corpus):
    plain = extract(corpus, FeatureConfig())
    same = extract(corpus, FeatureConfig(), perturbation=perturbation)
    assert np.array_equal(same.offsets, plain.offsets) and np.array_equal(same.frames, plain.frames)


def test_features_of_a_gain_are_those_of_a_louder_clip(corpus):
    """6.0206 dB add ln 4 to the log of every power: to coefficient 0 alone, in whose place the energy is."""
    config = FeatureConfig("mfcc", (("num_derivatives", 0),))
    plain, louder = extract(corpus, config), extract(corpus, config, perturbation=("gain", 6.0206))
    np.testing.assert_allclose(louder.frames[:, 0] - plain.frames[:, 0], np.log(4.0), atol=1e-4)
    np.testing.assert_allclose(louder.frames[:, 1:], plain.frames[:, 1:], atol=1e-3)


def test_features_of_faster_clips_have_fewer_frames_and_are_read_again(corpus):
    faster = extract(corpus, FeatureConfig(), perturbation=("speed", 1.25))
    frame, hop = 640, 160
    samples = np.round(corpus.decoded.seconds * SAMPLE_RATE / 1.25)
    assert np.abs(faster.lengths - ((samples - frame) // hop + 1)).max() <= 1
    again = extract(corpus, FeatureConfig(), perturbation=("speed", 1.25))
    slower = extract(corpus, FeatureConfig(), perturbation=("speed", 0.8))
    assert np.array_equal(again.frames, faster.frames) and len(slower.frames) > len(faster.frames)


@pytest.mark.parametrize(
    "perturbation, says",
    [
        (("speed", 10.0), r"clip 'high/\d\d' of folder: speed 10 leaves less than one frame: choose a smaller one"),
        (("gain", -200.0), r"clip 'high/00' of folder: gain -200 leaves silence"),
        (("sped", 1.5), r"unknown perturbation 'sped': did you mean 'speed'"),
    ],
)
def test_a_clip_that_a_level_spoils_is_named(perturbation, says, corpus):
    with pytest.raises(CapslibError, match=says):
        extract(corpus, FeatureConfig(), perturbation=perturbation)
