"""Perturbed waveforms: what each level does is known beforehand, and what cannot be used is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SAMPLE_RATE

from capslib.augment import PERTURBATIONS, perturb
from capslib.errors import CapslibError

some_clip = st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).uniform(-1, 1, 200).astype(np.float32))
quick = settings(max_examples=30, deadline=None, derandomize=True)


def sine(frequency: float, samples: int = 8000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(samples) / SAMPLE_RATE)).astype(np.float32)


def loudest(waveform: np.ndarray) -> float:
    """Frequency of the largest bin, in hertz."""
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * SAMPLE_RATE / len(waveform)


def test_six_decibels_double_the_samples():
    clip = sine(440.0)
    np.testing.assert_allclose(perturb(clip, "gain", 6.0206, SAMPLE_RATE), 2 * clip, rtol=1e-5)
    np.testing.assert_allclose(perturb(clip, "gain", -20.0, SAMPLE_RATE), clip / 10, rtol=1e-5)


def test_a_gain_beyond_full_scale_is_not_clipped():
    assert perturb(sine(440.0), "gain", 20.0, SAMPLE_RATE).max() == pytest.approx(3.0, rel=1e-3)


def test_an_offset_is_added_to_every_sample():
    clip = sine(440.0)
    np.testing.assert_allclose(perturb(clip, "offset", -0.25, SAMPLE_RATE), clip - 0.25, atol=1e-6)
    assert (perturb(np.zeros(9, np.float32), "offset", 0.5, SAMPLE_RATE) == 0.5).all()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_speed_moves_length_and_pitch_as_a_tape_does(factor):
    faster = perturb(sine(500.0), "speed", factor, SAMPLE_RATE)
    assert len(faster) == pytest.approx(8000 / factor, abs=1)
    assert loudest(faster) == pytest.approx(500.0 * factor, abs=SAMPLE_RATE / len(faster))
    middle = faster[len(faster) // 4 : -len(faster) // 4]
    assert np.abs(middle).max() == pytest.approx(0.3, rel=0.01)  # no louder for that


def test_speed_folds_nothing_back_into_the_band():
    assert np.abs(perturb(sine(5000.0), "speed", 2.0, SAMPLE_RATE)[500:-500]).max() < 1e-3


@pytest.mark.parametrize("kind, neutral", [("gain", 0.0), ("offset", 0.0), ("speed", 1.0)])
def test_the_neutral_level_changes_no_sample(kind, neutral):
    clip = np.random.default_rng(0).uniform(-1, 1, 500).astype(np.float32)
    before = clip.copy()
    assert np.array_equal(perturb(clip, kind, neutral, SAMPLE_RATE), before)
    perturb(clip, kind, neutral + 0.5, SAMPLE_RATE)
    assert np.array_equal(clip, before)  # nor is the caller's clip changed by another level


@quick
@given(clip=some_clip, decibels=st.floats(-30.0, 30.0))
def test_a_gain_and_its_inverse_cancel(clip, decibels):
    back = perturb(perturb(clip, "gain", decibels, SAMPLE_RATE), "gain", -decibels, SAMPLE_RATE)
    np.testing.assert_allclose(back, clip, rtol=0, atol=1e-6)


@quick
@given(clip=some_clip, constant=st.floats(-0.9, 0.9))
def test_an_offset_and_its_inverse_cancel(clip, constant):
    back = perturb(perturb(clip, "offset", constant, SAMPLE_RATE), "offset", -constant, SAMPLE_RATE)
    np.testing.assert_allclose(back, clip, rtol=0, atol=1e-6)


@quick
@given(clip=some_clip, kind=st.sampled_from(sorted(PERTURBATIONS)), level=st.floats(0.5, 2.0))
def test_lengths_and_type(clip, kind, level):
    changed = perturb(clip, kind, level, SAMPLE_RATE)
    assert changed.dtype == np.float32 and changed.ndim == 1
    assert len(changed) == pytest.approx(len(clip) / (level if kind == "speed" else 1.0), abs=1)


@pytest.mark.parametrize("kind", sorted(PERTURBATIONS))
def test_a_clip_without_samples_stays_one(kind):
    assert len(perturb(np.zeros(0, np.float32), kind, 0.5, SAMPLE_RATE)) == 0


@pytest.mark.parametrize(
    "kind, level, says",
    [
        ("gian", 1.0, r"unknown perturbation 'gian': did you mean 'gain'"),
        ("speed", 0.0, r"speed 0: a factor must be above 0"),
        ("speed", -1.0, r"speed -1: a factor must be above 0"),
        ("gain", -200.0, r"gain -200 leaves silence.*choose a level nearer to no change"),
        ("offset", -0.25, r"offset -0\.25 leaves silence"),
        ("offset", float("nan"), r"offset nan: give a finite level"),
        ("speed", float("nan"), r"speed nan: give a finite level"),
        ("gain", 1e5, r"gain 100000 leaves silence or no number"),
    ],
)
def test_what_cannot_be_done_is_named(kind, level, says):
    with pytest.raises(CapslibError, match=says):
        perturb(np.full(100, 0.25, np.float32), kind, level, SAMPLE_RATE)
