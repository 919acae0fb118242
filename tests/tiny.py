"""Tiny corpora for tests: tones in noise, one folder per class, learnt in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from capslib import corpora

SAMPLE_RATE = 16_000
TONES = {"high": 3000.0, "low": 300.0, "mid": 1000.0}  # hertz


def tone(frequency: float, seconds: float, random: np.random.Generator, noise: float = 0.05) -> np.ndarray:
    """A tone of random phase in white noise: (samples,)."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    clean = 0.3 * np.sin(2 * np.pi * (frequency * time + random.uniform()))
    return clean + noise * random.standard_normal(len(time))


def write_folder(folder: Path, clips_a_class: int = 10, noise: float = 0.05, seed: int = 0) -> Path:
    """One folder a class with clips of 60 to 200 ms; the same samples for the same arguments."""
    random = np.random.default_rng(seed)
    for label, frequency in TONES.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(clips_a_class):
            samples = tone(frequency, random.uniform(0.06, 0.2), random, noise)
            soundfile.write(folder / label / f"{number:02d}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    return folder


def register(monkeypatch: pytest.MonkeyPatch, source: corpora.Source) -> None:
    """Let a corpus be known by its name, in this test."""
    known = corpora.sources() | {source.name: source}
    monkeypatch.setattr(corpora, "sources", lambda: known)
