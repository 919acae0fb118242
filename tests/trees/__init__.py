"""Tiny archives in exactly their owners' layouts: short noise clips instead of recordings, the same ones in every run.

Each builder fills ``folder`` and returns it. ``suffix`` chooses the container: the loaders must not care.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from trees import layouts

SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS"}
URBAN_CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
ASED_FOLDERS = ("01Neutral", "02Fearful", "03Happy", "04Sad", "05Angry")


def noise(name: str, rate: int = 8_000) -> np.ndarray:
    """int16 (n,), 60 to 100 ms of noise that belongs to ``name``."""
    seed = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "little")
    random = np.random.default_rng(seed)
    return random.integers(-8_000, 8_000, int(rate * random.uniform(0.06, 0.10))).astype(np.int16)


@functools.cache
def _encoded(name: str, rate: int, suffix: str) -> bytes:
    """A clip as a file; many tests write the same ones."""
    file = io.BytesIO()
    soundfile.write(file, noise(name, rate), rate, format=suffix[1:], subtype=SUBTYPES[suffix])
    return file.getvalue()


def write(file: Path, samples: np.ndarray | None = None, rate: int = 8_000, subtype: str | None = None) -> Path:
    """One clip in the container that the suffix of ``file`` names; by default the noise of its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if samples is None and subtype is None:
        file.write_bytes(_encoded(file.stem, rate, file.suffix))
    else:
        samples = noise(file.stem, rate) if samples is None else samples
        soundfile.write(file, samples, rate, subtype=subtype or SUBTYPES[file.suffix])
    return file


def fsdd(
    folder: Path,
    suffix: str = ".wav",
    speakers: Iterable[str] = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"),
    digits: Iterable[int] = range(10),
    indices: Iterable[int] = (0, 1),
) -> Path:
    """``recordings/{digit}_{speaker}_{index}.wav``, 8 kHz."""
    digits, indices = list(digits), list(indices)
    for speaker in speakers:
        for digit in digits:
            for index in indices:
                write(folder / "recordings" / f"{digit}_{speaker}_{index}{suffix}")
    return folder


def ravdess(
    folder: Path, suffix: str = ".wav", actors: Iterable[int] = range(1, 13), emotions: Iterable[int] = range(1, 9)
) -> Path:
    """``Actor_NN/03-01-EE-II-SS-RR-AA.wav``, 48 kHz; one clip an emotion and actor."""
    emotions = list(emotions)
    for actor in actors:
        for emotion in emotions:
            name = f"03-01-{emotion:02d}-01-{1 + actor % 2:02d}-01-{actor:02d}{suffix}"
            write(folder / f"Actor_{actor:02d}" / name, rate=48_000)
    return folder


def emodb(
    folder: Path,
    suffix: str = ".wav",
    speakers: Iterable[str] = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"),
    letters: str = "WLEAFTN",
) -> Path:
    """``wav/SSTTTEv.wav``, 16 kHz; one sentence an emotion and speaker."""
    for speaker in speakers:
        for number, letter in enumerate(letters):
            text = ("a01", "a02", "b01", "b10")[number % 4]
            write(folder / "wav" / f"{speaker}{text}{letter}{'abc'[number % 3]}{suffix}", rate=16_000)
    return folder


def urbansound8k(folder: Path, suffix: str = ".wav", folds: Iterable[int] = (1, 2, 10), recordings: int = 2) -> Path:
    """``audio/fold{F}/{fsID}-{classID}-{occurrence}-{slice}.wav`` for ``folds``, and the metadata of all ten folds."""
    folds, rows = list(folds), []
    for fold in range(1, 11):
        for code, name in enumerate(URBAN_CLASSES):
            for recording in range(recordings):
                source = 100_000 + 1_000 * fold + 10 * code + recording
                stem = f"{source}-{code}-0-{recording}"
                rows.append([f"{stem}.wav", source, 0.0, 0.08, 1, fold, code, name])
                if fold in folds:
                    write(folder / "audio" / f"fold{fold}" / f"{stem}{suffix}", rate=16_000)
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    with open(folder / "metadata" / "UrbanSound8K.csv", "w", newline="", encoding="utf-8") as file:
        header = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
        csv.writer(file).writerows([header, *rows])
    return folder


def ased(
    folder: Path,
    suffix: str = ".wav",
    speakers: Iterable[int] = range(1, 11),
    sentences: Iterable[int] = (1, 2, 3),
    wrong_codes: Iterable[str] = (),
) -> Path:
    """``NNEmotion/xN-sentence-repetition-gender-speaker.wav``, 16 kHz; speakers with even numbers are men (02).

    ``wrong_codes`` are names without suffix, as they should be; those files get the other gender code.
    """
    sentences, wrong_codes = list(sentences), set(wrong_codes)
    for speaker in speakers:
        for number, emotion in enumerate(ASED_FOLDERS, start=1):
            for sentence in sentences:
                letter, gender = emotion[2].lower(), 2 if speaker % 2 == 0 else 1
                name = f"{letter}{number}-{sentence:02d}-01-{gender:02d}-{speaker:02d}"
                if name in wrong_codes:
                    name = f"{letter}{number}-{sentence:02d}-01-{3 - gender:02d}-{speaker:02d}"
                write(folder / emotion / f"{name}{suffix}", rate=16_000)
    return folder


def own_folders(folder: Path, suffix: str = ".wav", classes: Iterable[str] = ("robin", "wren"), clips: int = 6) -> Path:
    """One folder a class."""
    for name in classes:
        for number in range(clips):
            write(folder / name / f"{name}{number}{suffix}", rate=16_000)
    return folder


def own_csv(
    folder: Path, suffix: str = ".wav", classes: Iterable[str] = ("robin", "wren"), groups: int = 4, clips: int = 2
) -> Path:
    """``labels.csv`` with path, label and group; each group gives ``clips`` clips of every class."""
    rows = [["path", "label", "group"]]
    for name in classes:
        for group in range(groups):
            for number in range(clips):
                path = f"clips/{name}_{group}_{number}{suffix}"
                write(folder / path, rate=16_000)
                rows.append([path, name, f"garden{group}"])
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


# By the name of the corpus that is looked for in the data folder.
ARCHIVES = {
    "fsdd": fsdd,
    "ravdess": ravdess,
    "emodb": emodb,
    "urbansound8k": urbansound8k,
    "ased": ased,
    "iemocap": layouts.iemocap,
    "vctk": layouts.vctk,
    "musan": layouts.musan,
}
