"""The embedded corpora are the same everywhere: their fingerprints are constants."""

import numpy as np
import pytest

from capslib import corpora

# A promise for every machine: whoever changes what is synthesized changes these, and with them every quick record.
FINGERPRINTS = {
    "synth_digits": "01ec7a662cc8b137",
    "synth_gender": "183755e62312705e",
    "synth_emotion": "c1c680f09661a0aa",
}
SIZES = {  # clips, classes, voices, utterances per voice and class
    "synth_digits": (360, 10, 12, 3),
    "synth_gender": (192, 2, 24, 8),
    "synth_emotion": (320, 4, 10, 8),
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_same_samples_on_every_machine(name):
    assert corpora.load(name).fingerprint == FINGERPRINTS[name]


def test_made_anew_in_an_empty_cache_it_is_the_same_again(tmp_path, monkeypatch, fresh_loads):
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "cache"))
    assert corpora.load("synth_gender").fingerprint == FINGERPRINTS["synth_gender"]
    folders = [folder.name for folder in (tmp_path / "cache" / "synthetic").iterdir()]
    assert len(folders) == 1 and folders[0].startswith("synth_gender-")  # nothing half-made is left beside it


@pytest.mark.parametrize("name", SIZES)
def test_counts(name):
    corpus = corpora.load(name)
    clips, classes, voices, each = SIZES[name]
    assert (len(corpus.table), len(corpus.classes), corpus.table["voice"].nunique()) == (clips, classes, voices)
    group = ["voice", "label"]
    assert set(corpus.table.groupby(group).size()) == {each}
    assert corpus.left_out.empty and corpus.converted.empty and corpus.missing == ()
    assert corpus.about.evidence == "synthetic" and corpus.sample_rate == 8_000
    assert not corpus.table["sha256"].duplicated().any()
    assert corpus.table["duration"].between(0.1, 5).all()


@pytest.mark.parametrize("name", SIZES)
def test_voices_never_straddle(name):
    corpus = corpora.load(name)
    assert len(corpus.splits) == 3
    for split in corpus.splits:
        train, validation, test = (
            set(corpus.table.loc[list(part), "voice"]) for part in (split.train, split.validation, split.test)
        )
        assert not train & test and not train & validation and not validation & test


@pytest.mark.parametrize("name", SIZES)
def test_clips_are_audible_and_not_clipped(name):
    corpus = corpora.load(name)
    for item in corpus.table.index[::7]:
        samples = corpus.audio(item)
        assert samples.dtype == np.float32 and 0.003 < np.sqrt(np.mean(samples**2)) < 0.5
        assert np.mean(np.abs(samples) > 0.999) < 0.001


def test_noise_and_prosody_are_drawn_anew_for_each_clip():
    corpus = corpora.load("synth_digits")
    lengths = corpus.table.groupby(["voice", "label"])["duration"].nunique()
    assert (lengths > 1).mean() > 0.9


def test_an_embedded_corpus_needs_no_recordings(data_folder):
    assert corpora.load("synth_digits").fingerprint == FINGERPRINTS["synth_digits"]
