"""Embedded corpora: synthetic speech by eSpeak NG, so that a fresh clone has something to train on.

They stand for nobody's recordings: rows that come from them are labelled *synthetic*. Voices play the part of speakers.
Every clip is mixed with white noise at a drawn signal-to-noise ratio, or the tasks would be too easy to tell systems
apart. The clips are the same on every machine: eSpeak's own noise is seeded, a corpus is made in one order in a process
of its own, and everything after it is double precision, rounded to 16 bits at the end.
"""

import hashlib
import io
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from capslib import paths
from capslib.corpora.layout import clips
from capslib.corpora.splits import grouped_folds
from capslib.corpora.table import Budget, Source, Task
from capslib.errors import CapslibError

SAMPLE_RATE = 8_000
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FEMALE = ("f1", "f2", "f3", "f4", "f5", "Alicia", "Andrea", "Annie", "aunty", "belinda", "linda", "steph")
_MALE = ("m1", "m2", "m3", "m4", "m5", "m7", "adam", "Andy", "Michael", "Mike", "Reed", "robert")
_ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-us-nyc")
_SENTENCES = (
    "the boat left the harbour at noon",
    "put the cup beside the window",
    "nobody knew where the road would end",
    "seven birds are sitting on the wire",
    "we will meet again in the spring",
    "the letter lies under the lamp",
    "open the gate and let them in",
    "it rained for the whole afternoon",
)
# Means of rate, pitch, pitch range and volume on eSpeak's scales, and how far clips lie from them.
_EMOTIONS = {
    "neutral": (195, 50, 45, 85),
    "happy": (215, 64, 75, 95),
    "sad": (170, 42, 25, 70),
    "angry": (220, 54, 65, 110),
}
_SPREAD = (15, 10, 15, 15)


@dataclass(frozen=True)
class Utterance:
    """What to say for one clip; rate, pitch, pitch_range and volume are on eSpeak's scales."""

    name: str
    text: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    volume: int
    snr: float  # decibels


def generator(name: str) -> np.random.Generator:
    """Random numbers that belong to a corpus, the same ones on every machine."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(name.encode(), "little")))


def _voices(variants: tuple[str, ...]) -> list[tuple[str, str]]:
    """What names of clips call a voice, and what eSpeak calls it."""
    return [(variant.lower(), f"{_ACCENTS[i % len(_ACCENTS)]}+{variant}") for i, variant in enumerate(variants)]


def _digits(random: np.random.Generator) -> Iterator[Utterance]:
    for variant, voice in _voices(_FEMALE[:6] + _MALE[:6]):
        for digit, word in enumerate(_DIGITS):
            for index in range(3):
                rate, pitch = random.integers(130, 210), random.integers(40, 60)
                yield Utterance(f"{digit}_{variant}_{index}", word, voice, rate, pitch, 50, 90, random.uniform(0, 15))


def _genders(random: np.random.Generator) -> Iterator[Utterance]:
    for gender, variants in (("female", _FEMALE), ("male", _MALE)):
        for variant, voice in _voices(variants):
            for index, text in enumerate(_SENTENCES):
                # Pitch alone must not tell: women are lowered and men raised in part of the clips.
                pitch = random.integers(5, 50) if gender == "female" else random.integers(50, 99)
                rate, snr = random.integers(190, 260), random.uniform(-5, 10)
                yield Utterance(f"{gender}_{variant}_{index}", text, voice, rate, pitch, 50, 90, snr)


def _emotions(random: np.random.Generator) -> Iterator[Utterance]:
    for variant, voice in _voices(_FEMALE[:5] + _MALE[:5]):
        for emotion, means in _EMOTIONS.items():
            for index, text in enumerate(_SENTENCES):
                prosody = [mean + random.integers(-far, far + 1) for mean, far in zip(means, _SPREAD, strict=True)]
                yield Utterance(f"{emotion}_{variant}_{index}", text, voice, *prosody, random.uniform(5, 20))


_UTTERANCES = {
    "synth_digits": _digits,
    "synth_gender": _genders,
    "synth_emotion": _emotions,
    "synth_speech": lambda random: (replace(utterance, snr=math.inf) for utterance in _genders(random)),
}


def write_clip(file: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write samples, float64 (n,) in [-1, 1), as 16-bit FLAC. Raises OSError if the disk is full."""
    integers = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    packed = io.BytesIO()  # libsndfile says nothing when the disk is full; Python does
    soundfile.write(packed, integers, sample_rate, format="FLAC", subtype="PCM_16")
    file.write_bytes(packed.getvalue())


def make_once(kind: str, name: str, inputs: bytes, fill: Callable[[Path], None]) -> Path:
    """The folder with the clips of a corpus in the cache, made on the first call and anew when ``inputs`` change.
    ``kind`` is a folder of the cache; ``inputs`` are all that the clips depend on, such as the code that makes them;
    ``fill`` writes the clips into an empty folder, which gets its name when all of them are there. Raises CapslibError
    if it cannot be written."""
    folder = paths.cache() / kind / f"{name}-{hashlib.sha256(inputs).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            unfinished = Path(scratch) / "clips"
            unfinished.mkdir()
            fill(unfinished)
            if not folder.is_dir():
                unfinished.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster, with the same clips
            raise CapslibError(f"cannot write {paths.shown(folder)}: {error.strerror}; set CAPSLIB_CACHE") from error
    return folder


def synthesize(name: str, folder: Path) -> None:
    """Write all clips of one corpus as FLAC into ``folder``. Only in a process of its own are the samples the same each
    time: eSpeak remembers what it said before. Raises CapslibError if eSpeak NG does not start or lacks a voice, and
    OSError if the disk is full."""
    from capslib.corpora.espeak import Espeak

    speaker, random = Espeak(), generator(name)
    for number, what in enumerate(_UTTERANCES[name](random)):
        prosody = {"rate": what.rate, "pitch": what.pitch, "pitch_range": what.pitch_range, "volume": what.volume}
        spoken = speaker.say(what.text, what.voice, seed=number, **prosody).astype(np.float64) / 32768
        loud = np.flatnonzero(np.abs(spoken) > 0.01)
        speech = resample_poly(spoken[loud[0] : loud[-1] + 1], 160, 441)
        level = np.sqrt(np.mean(speech**2)) * 10 ** (-what.snr / 20)
        mixed = speech + level * random.standard_normal(len(speech))
        write_clip(folder / f"{what.name}.flac", mixed * 0.5, SAMPLE_RATE)


def make(name: str) -> Path:
    """The folder with the clips of an embedded corpus, made on the first call (a few seconds) and cached. Raises
    CapslibError if the synthesizer fails or the cache cannot be written."""

    def fill(folder: Path) -> None:
        command = [sys.executable, "-m", "capslib.corpora.synthetic", name, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=paths.root(), check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["the synthesizer crashed"])[-1]
            raise CapslibError(f"corpus {name!r} could not be synthesized: {reason}")

    code = b"".join(Path(__file__).with_name(file).read_bytes() for file in ("synthetic.py", "espeak.py"))
    return make_once("synthetic", name, code, fill)


def _source(name: str, label: str, what: str, budget: Budget | None, alone: bool = True) -> Source:
    protocol = "3 folds by voice; one or two other voices validate"
    folds = partial(grouped_folds, num_folds=3)
    return Source(
        name=name,
        read=partial(clips, pattern=rf"(?P<{label}>[a-z0-9]+)_(?P<voice>[a-z0-9]+)_(?P<index>\d+)"),
        tasks={label: Task(label, "voice", protocol, folds, evidence="synthetic", alone=alone)},
        sample_rate=SAMPLE_RATE,
        citation=f"{what}, spoken by eSpeak NG",
        licence="made here; eSpeak NG is GPL-3.0",
        how_to_get="made on first use",
        budgets={"quick": budget} if budget else {},
        make=partial(make, name),
    )


_CARICATURES = "four caricatures of emotional prosody, ten voices, eight sentences"
SOURCES = (
    _source("synth_digits", "digit", "ten digits, twelve voices", Budget(epochs=12, batch_size=16)),
    _source(
        "synth_gender", "gender", "two genders, twenty-four voices, eight sentences", Budget(epochs=6, batch_size=16)
    ),
    _source("synth_emotion", "emotion", _CARICATURES, Budget(epochs=12, batch_size=16, max_splits=2)),
    _source("synth_speech", "gender", "the voices and sentences of synth_gender without noise", None, alone=False),
)

if __name__ == "__main__":
    synthesize(sys.argv[1], Path(sys.argv[2]))
