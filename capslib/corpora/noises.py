"""Synthetic noise: eight kinds of machine-made sound without speech or music, for the embedded mixtures.

Every recording draws its own frequencies, rates and bandwidths; everything is double precision, rounded to 16 bits at
the end, so that the clips are the same on every machine.
"""

from functools import partial
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

from capslib.corpora.layout import clips
from capslib.corpora.splits import grouped_folds
from capslib.corpora.synthetic import SAMPLE_RATE, generator, make_once, write_clip
from capslib.corpora.table import Source, Task

_NAME = "synth_noise"
_PROTOCOL = "3 folds by recording; a seventh of the other recordings validates"
_RECORDINGS = 12  # of each sound
_TIME = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE  # seconds


def _band(random: np.random.Generator, low: float, high: float, driven: np.ndarray | None = None) -> np.ndarray:
    """White noise, or ``driven``, between two frequencies in hertz."""
    sections = butter(2, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos")
    return sosfilt(sections, random.standard_normal(len(_TIME)) if driven is None else driven)


def _hiss(random: np.random.Generator) -> np.ndarray:
    low = random.uniform(200, 1_500)
    return _band(random, low, low * random.uniform(1.5, 2.5))


def _rumble(random: np.random.Generator) -> np.ndarray:
    return _band(random, 20, random.uniform(80, 300))


def _hum(random: np.random.Generator) -> np.ndarray:
    order = np.arange(1, 16)[:, None]
    phases = random.uniform(0, 2 * np.pi, order.shape)
    tones = np.sin(2 * np.pi * random.uniform(45, 130) * order * _TIME + phases)
    return (tones * order ** -random.uniform(0.5, 1.5)).sum(axis=0)


def _siren(random: np.random.Generator) -> np.ndarray:
    swing = random.uniform(0.1, 0.4) * np.sin(2 * np.pi * random.uniform(0.3, 4) * _TIME)
    phase = 2 * np.pi * np.cumsum(random.uniform(600, 1_500) * (1 + swing)) / SAMPLE_RATE
    return np.sin(phase) + 0.3 * np.sin(2 * phase)


def _crackle(random: np.random.Generator) -> np.ndarray:
    often = random.uniform(5, 40) / SAMPLE_RATE
    impulses = (random.random(len(_TIME)) < often) * random.standard_normal(len(_TIME))
    centre = random.uniform(500, 2_500)
    return _band(random, 0.8 * centre, 1.2 * centre, impulses)


def _hammer(random: np.random.Generator) -> np.ndarray:
    since = _TIME % (1 / random.uniform(4, 14))
    decay = np.exp(-since * random.uniform(30, 80))
    return decay * _band(random, random.uniform(100, 800), random.uniform(1_500, 3_500))


def _engine(random: np.random.Generator) -> np.ndarray:
    speed = random.uniform(18, 40) * (1 + 0.02 * np.cumsum(random.standard_normal(len(_TIME))) / np.sqrt(SAMPLE_RATE))
    strokes = np.diff(np.floor(np.cumsum(speed) / SAMPLE_RATE), prepend=0.0)
    return _band(random, 40, random.uniform(300, 700), strokes)


def _beeps(random: np.random.Generator) -> np.ndarray:
    period = random.uniform(0.2, 0.8)
    return (_TIME % period < period * random.uniform(0.3, 0.6)) * np.sin(2 * np.pi * random.uniform(700, 3_000) * _TIME)


_SOUNDS = (_hiss, _rumble, _hum, _siren, _crackle, _hammer, _engine, _beeps)


def _fill(folder: Path) -> None:
    random = generator(_NAME)
    for play in _SOUNDS:
        for number in range(_RECORDINGS):
            played = play(random)
            played = played / np.sqrt(np.mean(played**2)) + 0.03 * random.standard_normal(len(played))
            played *= min(0.1, 0.9 / np.abs(played).max())
            write_clip(folder / f"{play.__name__.strip('_')}_{number:02d}.flac", played, SAMPLE_RATE)


_TASK = Task(
    "sound", "recording", _PROTOCOL, partial(grouped_folds, num_folds=3), "fold", evidence="synthetic", alone=False
)
SOURCES = (
    Source(
        name=_NAME,
        read=partial(clips, pattern=r"(?P<recording>(?P<sound>[a-z]+)_\d+)"),
        tasks={"sound": _TASK},
        sample_rate=SAMPLE_RATE,
        citation="eight kinds of noise, synthesized here",
        licence="made here",
        how_to_get="made on first use",
        make=lambda: make_once("synthetic", _NAME, Path(__file__).read_bytes(), _fill),
    ),
)
