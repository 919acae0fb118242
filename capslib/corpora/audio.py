"""Decoding: any container that libsndfile reads, to mono 16-bit integers at one rate, each clip once.

Integers, because a fingerprint of the data must be the same on every machine. Clips that cannot be used
are left out and listed with the reason; clips that had to be converted are listed too.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import soxr
from tqdm import tqdm

from capslib import paths

MINIMUM_SECONDS = 0.040  # one analysis frame of every paper
_VERSION = 2
_UNKNOWN = 2**62  # more frames than any file has: what libsndfile gives where a header has no length
_WIDER = {"PCM_24": "24-bit", "PCM_32": "32-bit", "FLOAT": "floating-point", "DOUBLE": "floating-point"}


class Unusable(Exception):
    """Why one clip cannot be used."""


@dataclass(frozen=True)
class Audio:
    """Decoded clips of one corpus, back to back in one memory-mapped array."""

    samples: np.ndarray  # int16 (total samples,)
    offsets: np.ndarray  # int64 (clips + 1,); clip i is samples[offsets[i]:offsets[i + 1]]
    sample_rate: int  # of every clip, in hertz
    hashes: tuple[str, ...]  # SHA-256 of each clip's samples, in the order of the clips
    left_out: pd.DataFrame  # columns path, reason: clips that cannot be used, and have no samples
    converted: pd.DataFrame  # columns path, reason: clips that were changed on reading

    def __getitem__(self, i: int) -> np.ndarray:
        return self.samples[self.offsets[i] : self.offsets[i + 1]]

    @property
    def seconds(self) -> np.ndarray:
        """Durations in seconds, (clips,)."""
        return np.diff(self.offsets) / self.sample_rate


def _ends_early(path: Path) -> bool:
    """Whether the file is shorter than its own header says (RIFF) or lacks its last page (Ogg)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little")
            return declared < 0xFFFFFFF0 and declared + 8 > size + 1
        if head[:4] == b"OggS":
            file.seek(max(0, size - 65_536))
            tail = file.read()
            flags = tail[tail.rfind(b"OggS") :][5:6]  # b"" if the file ends within a page's first bytes
            return not flags or not flags[0] & 4
    return False


def decode(path: Path, sample_rate: int) -> tuple[np.ndarray, str]:
    """One file as mono int16 (n,) at ``sample_rate`` in hertz, and what had to be converted ("" if nothing). Raises
    Unusable with the reason, in a few words."""
    if path.stat().st_size == 0:
        raise Unusable("empty file")
    try:
        # As bytes where the system has bytes: soundfile refuses names that are not UTF-8.
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path) as file:
            rate, expected, subtype = file.samplerate, file.frames, file.subtype
            if expected >= _UNKNOWN:  # a FLAC file written into a pipe, or one whose disk was full
                raise Unusable("its header does not say how long it is: convert it once more")
            wide = file.read(dtype="int16" if subtype == "PCM_16" else "float64", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise Unusable(f"unreadable: {str(error).rsplit(': ', 1)[-1].strip().rstrip('.')}") from None
    except (MemoryError, ValueError):
        raise Unusable("unreadable: its header claims more samples than fit into memory") from None
    if _ends_early(path) or 0 < len(wide) < expected:
        raise Unusable("truncated: the file ends before its header says")
    if len(wide) == 0:
        raise Unusable("empty: no samples")
    notes = [f"{_WIDER[subtype]} samples rounded to 16 bits"] if subtype in _WIDER else []
    exact = wide.dtype == np.int16
    if not exact and not np.isfinite(wide).all():
        raise Unusable("holds NaN or infinite samples")
    if wide.shape[1] > 1:
        notes.append(f"{wide.shape[1]} channels averaged")
    if rate != sample_rate:
        notes.append(f"resampled from {rate} Hz")
    samples = wide[:, 0]
    if notes or not exact:
        mono = wide.mean(axis=1) / (32768.0 if exact else 1.0)
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
        samples = np.clip(np.rint(mono * 32768.0), -32768, 32767).astype(np.int16)
    if len(samples) < MINIMUM_SECONDS * sample_rate:
        raise Unusable(f"shorter than a frame of {MINIMUM_SECONDS * 1000:.0f} ms")
    if not samples.any():
        raise Unusable("silent: every sample is zero")
    return samples, ", ".join(notes)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        return file.stat().st_size, file.stat().st_mtime_ns
    except OSError:  # a link to nowhere, as git-annex leaves them: decoding will say so
        return -1, 0


def _try_decode(file: Path, sample_rate: int) -> tuple[np.ndarray | None, str]:
    try:
        return decode(file, sample_rate)
    except Unusable as problem:
        return None, str(problem)
    except OSError as error:
        return None, f"unreadable: {error.strerror}"


def load(name: str, files: Sequence[Path], labels: Sequence[str], sample_rate: int) -> Audio:
    """Decode the ``files`` of a corpus once; later calls read the cache, as long as no file's size or time has changed.
    ``name`` is the corpus, for the progress bar and the cache; ``labels`` are how lists of problems name the files
    (their paths inside the corpus); ``sample_rate`` is in hertz. Clips that cannot be used are listed in ``left_out``.
    Raises CapslibError if the cache cannot be written."""
    manifest = [(label, *_stamp(file)) for label, file in zip(labels, files, strict=True)]
    key = hashlib.sha256(json.dumps([_VERSION, sample_rate, manifest]).encode()).hexdigest()[:16]
    index, samples_file = (paths.cache() / "audio" / f"{name}-{key}{suffix}" for suffix in (".json", ".npy"))
    if not (index.is_file() and samples_file.is_file()):
        facts, samples = _decode_all(name, files, labels, sample_rate)
        paths.write_atomically(samples_file, lambda temporary: np.save(temporary, samples))
        paths.write_text(index, json.dumps(facts))
    facts = json.loads(index.read_text(encoding="utf-8"))
    left_out, converted = (
        pd.DataFrame([problem for *problem, used in facts["problems"] if used is wanted], columns=["path", "reason"])
        for wanted in (False, True)
    )
    samples = np.load(samples_file, mmap_mode="r") if facts["offsets"][-1] else np.zeros(0, np.int16)
    return Audio(samples, np.array(facts["offsets"]), sample_rate, tuple(facts["hashes"]), left_out, converted)


def _decode_all(name: str, files: Sequence[Path], labels: Sequence[str], sample_rate: int) -> tuple[dict, np.ndarray]:
    """What the index says of the clips; and their samples, int16 (total samples,)."""
    offsets, hashes, problems, chunks = [0], [], [], [np.zeros(0, np.int16)]
    with ThreadPoolExecutor(2) as pool:
        decoded = pool.map(_try_decode, files, repeat(sample_rate))
        bar = tqdm(decoded, total=len(files), desc=f"decoding {name}", unit="clip", disable=not sys.stderr.isatty())
        for label, (samples, note) in zip(labels, bar, strict=True):
            if note:
                problems.append((label, note, samples is not None))
            chunks.append(chunks[0] if samples is None else samples)
            offsets.append(offsets[-1] + len(chunks[-1]))
            hashes.append(hashlib.sha256(chunks[-1].astype("<i2").tobytes()).hexdigest())
    return {"offsets": offsets, "hashes": hashes, "problems": problems}, np.concatenate(chunks)
