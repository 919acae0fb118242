"""MFCC-60 and the 512-bin log-spectrogram, beside other libraries on the same clips and beside decoding.

Every library is set to our definition as far as it goes: frames of 40 ms every 10 ms from the first sample, a DFT of
the frame's length (1600 for the spectrogram), 40 bands on the HTK scale, no pre-emphasis, no lifter, no dither,
regression over five frames for both derivatives.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from bench import timing
from bench.store import Store
from capslib.corpora import audio
from capslib.features import MFCC, LogSpectrogram

SAMPLE_RATE = 16_000
FRAME, HOP, DFT, BINS = 640, 160, 1600, 512
CLIPS, SECONDS, BATCH = 200, 3.0, 20
MFCC_60, SPECTROGRAM = "MFCC-60", "log-spectrogram, 512 bins"
KINDS = (MFCC_60, SPECTROGRAM)
# Clips (n, samples), float32 -> one array (frames, features) per clip
Library = Callable[[np.ndarray], Sequence[np.ndarray]]
PACKAGES = {
    "capslib": "torch",
    "torchaudio, batches": "torchaudio",
    "torchaudio, clip by clip": "torchaudio",
    "librosa": "librosa",
    "kaldi-native-fbank": "kaldi_native_fbank",
    "python_speech_features": "python_speech_features",
}
ON_TORCH = ("capslib", "torchaudio, batches", "torchaudio, clip by clip")  # these have threads of their own
# Its short-time transform gives values unlike all others' where the window is shorter than the DFT (version 1.22.5).
WITHOUT_SPECTROGRAM = ("kaldi-native-fbank",)
# torch and librosa put the window into the middle of a longer DFT, so that their frames lie so many hops later.
_FRAMES_LATER = {"librosa": 3, "torchaudio, batches": 3, "torchaudio, clip by clip": 3}


@cache
def clips(count: int = CLIPS, seconds: float = SECONDS) -> np.ndarray:
    """Gliding harmonics with pauses over a little noise, so that there is an envelope: (count, samples), float32."""
    random = np.random.default_rng(0)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    glide = 1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.3, 2, (count, 1)) * time)
    pitch = random.uniform(90, 220, (count, 1)) * glide
    phase = 2 * np.pi * np.cumsum(pitch, axis=1) / SAMPLE_RATE
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(1, 4, (count, 1)) * time)
    voice = sum(np.sin(k * phase) * random.uniform(0.2, 1.0, (count, 1)) / k for k in range(1, 13))
    return (0.1 * loud * voice + 0.003 * random.standard_normal(voice.shape)).astype(np.float32)


def _in_batches(transform: Callable[[torch.Tensor], torch.Tensor], batch: int) -> Library:
    """A library from a transform of (clips, samples) to (clips, frames, features)."""

    @torch.inference_mode()
    def run(waveforms: np.ndarray) -> list[np.ndarray]:
        parts = torch.from_numpy(waveforms).split(batch)
        return [values for part in parts for values in transform(part).cpu().numpy()]

    return run


def ours(kind: str, device: str = "cpu", batch: int = BATCH) -> Library:
    """Our module over batches, including the copies to the device and back."""
    module = (MFCC(SAMPLE_RATE) if kind == MFCC_60 else LogSpectrogram(SAMPLE_RATE)).to(device)

    def transform(part: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(part),), part.shape[1], device=device)
        return module(part.to(device), lengths)[0]

    return _in_batches(transform, batch)


def _torchaudio(kind: str, batch: int) -> Library:
    import torchaudio

    size = {"n_fft": FRAME, "win_length": FRAME, "hop_length": HOP, "n_mels": 40, "center": False}
    coefficients = torchaudio.transforms.MFCC(SAMPLE_RATE, 20, log_mels=True, melkwargs=size)
    power = torchaudio.transforms.Spectrogram(DFT, FRAME, HOP, center=False)

    def mfcc(part: torch.Tensor) -> torch.Tensor:
        values = coefficients(part)  # (clips, 20, frames)
        slopes = torchaudio.functional.compute_deltas(values)
        return torch.cat([values, slopes, torchaudio.functional.compute_deltas(slopes)], dim=1).transpose(1, 2)

    def spectrogram(part: torch.Tensor) -> torch.Tensor:
        return power(part)[:, :BINS].clamp_min(1e-10).log().transpose(1, 2)

    return _in_batches(mfcc if kind == MFCC_60 else spectrogram, batch)


def _with_derivatives(values: np.ndarray, derivative: Callable[[np.ndarray], np.ndarray], axis: int = 1) -> np.ndarray:
    """The values and their first and second derivatives by a library's own function, joined along ``axis``."""
    slopes = derivative(values)
    return np.concatenate([values, slopes, derivative(slopes)], axis=axis)


def _librosa(kind: str) -> Library:
    import librosa

    def mfcc(clip: np.ndarray) -> np.ndarray:
        size = {"n_fft": FRAME, "hop_length": HOP, "n_mels": 40, "htk": True, "center": False}
        values = librosa.feature.mfcc(y=clip, sr=SAMPLE_RATE, n_mfcc=20, **size, norm="ortho")  # (20, frames)
        return _with_derivatives(values, partial(librosa.feature.delta, width=5, mode="nearest"), axis=0).T

    def spectrogram(clip: np.ndarray) -> np.ndarray:
        complex_ = librosa.stft(clip, n_fft=DFT, win_length=FRAME, hop_length=HOP, center=False)
        return np.log(np.maximum(np.abs(complex_[:BINS]) ** 2, 1e-10)).T

    one = mfcc if kind == MFCC_60 else spectrogram
    return lambda waveforms: [one(clip) for clip in waveforms]


def _regression(values: np.ndarray) -> np.ndarray:
    """Regression over five frames, ends repeated, for the library that has none: (frames, features) -> the same."""
    p = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    return (2 * (p[4:] - p[:-4]) + p[3:-1] - p[1:-3]) / 10


def _kaldi() -> Library:
    import kaldi_native_fbank as knf

    options = knf.MfccOptions()
    frame = options.frame_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = SAMPLE_RATE, 40, 10
    frame.dither, frame.preemph_coeff, frame.remove_dc_offset = 0, 0, False
    frame.window_type, frame.round_to_power_of_two = "hann", False
    options.mel_opts.num_bins, options.mel_opts.low_freq = 40, 0
    options.num_ceps, options.use_energy, options.cepstral_lifter = 20, True, 0

    def mfcc(clip: np.ndarray) -> np.ndarray:
        stream = knf.OnlineMfcc(options)
        stream.accept_waveform(SAMPLE_RATE, clip)
        stream.input_finished()
        values = np.stack([stream.get_frame(i) for i in range(stream.num_frames_ready)])
        return _with_derivatives(values, _regression)

    return lambda waveforms: [mfcc(clip) for clip in waveforms]


def _python_speech_features(kind: str) -> Library:
    import python_speech_features as psf

    def mfcc(clip: np.ndarray) -> np.ndarray:
        size = {"winlen": 0.04, "winstep": 0.01, "numcep": 20, "nfilt": 40, "nfft": FRAME}
        values = psf.mfcc(clip, SAMPLE_RATE, **size, preemph=0, ceplifter=0, winfunc=np.hanning)
        return _with_derivatives(values, partial(psf.delta, N=2))

    def spectrogram(clip: np.ndarray) -> np.ndarray:
        frames = psf.sigproc.framesig(clip, FRAME, HOP, np.hanning)
        return np.log(np.maximum(psf.sigproc.powspec(frames, DFT)[:, :BINS], 1e-10))

    one = mfcc if kind == MFCC_60 else spectrogram
    return lambda waveforms: [one(clip) for clip in waveforms]


@cache
def library(name: str, kind: str) -> Library:
    """A library's computation of one kind of features; ``name`` is one of ``PACKAGES``, ``kind`` one of ``KINDS``."""
    if name == "capslib":
        return ours(kind)
    if name.startswith("torchaudio"):
        return _torchaudio(kind, BATCH if name.endswith("batches") else 1)
    if name == "kaldi-native-fbank":
        return _kaldi()
    return _librosa(kind) if name == "librosa" else _python_speech_features(kind)


def not_installed() -> list[str]:
    """Libraries whose package is not installed (the ``bench`` extra has them all)."""
    return [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is None]


def agreement(name: str, kind: str, waveforms: np.ndarray) -> dict[str, float]:
    """Correlation with ours over the frames of all clips, value by value: constant factors and offsets do not count.

    For MFCCs coefficients 1 to 19 and their derivatives (the energy is another quantity in every library), for the
    spectrogram every bin.

    Returns:
        median and lowest correlation, and the frames of a clip.
    """
    theirs, mine = library(name, kind)(waveforms), library("capslib", kind)(waveforms)
    later = _FRAMES_LATER.get(name, 0) if kind == SPECTROGRAM else 0
    pairs = [(a[: len(b) - later], b[later : later + len(a)]) for a, b in zip(theirs, mine, strict=True)]
    a, b = (np.concatenate(side).astype(np.float64) for side in zip(*pairs, strict=True))
    a, b = a - a.mean(0), b - b.mean(0)
    correlations = (a * b).sum(0) / np.maximum(np.sqrt((a * a).sum(0) * (b * b).sum(0)), 1e-30)
    if kind == MFCC_60:
        correlations = np.delete(correlations, [0, 20, 40])
    return {
        "median": float(np.median(correlations)),
        "lowest": float(correlations.min()),
        "frames": len(theirs[0]),
    }


def _in_worker(half: int, name: str, kind: str, count: int, seconds: float) -> None:
    torch.set_num_threads(1)
    waveforms = clips(count, seconds)
    library(name, kind)(waveforms[: count // 2] if half == 0 else waveforms[count // 2 :])


def speeds(kind: str, names: Sequence[str], count: int, seconds: float, repeats: int) -> dict[str, dict[str, dict]]:
    """Seconds for all clips on one thread, on two threads (libraries on torch), and by two processes with half each.

    Processes are the fair way to two cores for libraries without threads, and nearly always the faster one for the
    others; they are started, with all that they need, before anything is timed.

    Returns:
        By way ("one thread", "two threads", "two processes"), then by library: see ``timing.in_turns``.
    """
    waveforms = clips(count, seconds)
    computations = {name: partial(library(name, kind), waveforms) for name in names}
    ways = {}
    with timing.threads(1):
        ways["one thread"] = timing.in_turns(computations, repeats)
    with timing.threads(2):
        threaded = {name: run for name, run in computations.items() if name in ON_TORCH}
        ways["two threads"] = timing.in_turns(threaded, repeats)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as first, ProcessPoolExecutor(1, mp_context=context) as second:

        def both(name: str) -> None:
            arguments = (name, kind, count, seconds)
            halves = [pool.submit(_in_worker, half, *arguments) for half, pool in enumerate((first, second))]
            for half in halves:
                half.result()

        ways["two processes"] = timing.in_turns({name: partial(both, name) for name in names}, repeats)
    return ways


def decoding(count: int, seconds: float, repeats: int) -> dict[str, dict]:
    """Seconds to decode all clips from 16-bit files of each container, one thread, as loading a corpus does it."""
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], object]] = {}
        for container in ("wav", "flac", "ogg"):
            files = [Path(folder) / f"{i}.{container}" for i in range(count)]
            for file, clip in zip(files, clips(count, seconds), strict=True):
                soundfile.write(file, clip, SAMPLE_RATE)
            calls[container] = lambda files=files: [audio.decode(file, SAMPLE_RATE) for file in files]
        return timing.in_turns(calls, repeats)


def measure(store: Store, count: int = CLIPS, seconds: float = SECONDS) -> None:
    """Both kinds of features and decoding, one entry each.

    Args:
        store: on "cuda", ours on the GPU and librosa on one core are measured, without decoding.
        count, seconds: number and duration of the clips.
    """
    facts = {"clips": count, "seconds a clip": seconds, "missing": not_installed()}
    if store.device == "cuda":
        return _measure_on_gpu(store, clips(count, seconds), facts)
    for name in facts["missing"]:
        print(f"  {name}: not installed (pip install 'capslib[bench]')")
    installed = [name for name in PACKAGES if name not in facts["missing"]]
    for kind in KINDS:
        names = [name for name in installed if kind == MFCC_60 or name not in WITHOUT_SPECTROGRAM]
        ways = speeds(kind, names, count, seconds, store.repeats)
        agrees = {name: agreement(name, kind, clips(count, seconds)[:10]) for name in names}
        print(f"{kind}, {count} clips of {seconds:g} s, clips per second:")
        for name in names:
            rates = "  ".join(f"{way} {count / s[name]['median']:6.0f}" for way, s in ways.items() if name in s)
            print(f"  {name:26s} {rates}   correlation with ours {agrees[name]['median']:.3f}")
        store.add(kind, {"speeds": ways, "agreement": agrees, **facts})
    decoded = decoding(count, seconds, store.repeats)
    for container, value in decoded.items():
        print(f"  decoding {container:17s} {count / value['median']:6.0f} clips per second")
    store.add("decoding", {"speeds": decoded, **facts})


def _measure_on_gpu(store: Store, waveforms: np.ndarray, facts: dict[str, object]) -> None:
    """Ours on the GPU in one batch, with copies both ways, beside librosa on one core of the same machine."""
    for kind in KINDS:
        libraries = {"capslib": ours(kind, "cuda", batch=len(waveforms)), "librosa": library("librosa", kind)}
        calls = {name: partial(run, waveforms) for name, run in libraries.items()}
        seconds = timing.in_turns(calls, store.repeats)
        ours_, theirs = (seconds[name]["median"] for name in libraries)
        rate = len(waveforms) / ours_
        print(f"{kind} on the GPU: {rate:.0f} clips per second, {theirs / ours_:.1f} times librosa")
        store.add(kind, {"speeds": {"GPU": seconds}, "agreement": {}, **facts})
