"""Speed and memory as ratios in one run: ``make bench``. Nothing in the tests asserts a time.

Features against librosa and torchaudio on the same clips, and whole trainings of P0's capsule network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import psutil
import torch

from capslib import corpora, paths, study, training
from capslib.errors import CapslibError
from capslib.features import MFCC

REPEATS = 7


def clips_per_second(passes: dict[str, Callable[[], object]], clips: int) -> dict[str, float]:
    """Median clips a second of each candidate, in turns, so that a drifting machine touches all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(REPEATS + 1):
        for name, run in passes.items():
            began = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: clips / median(values) for name, values in seconds.items()}


def features(clips: int = 200, seconds: float = 3.0, sample_rate: int = 16_000) -> dict[str, float]:
    """MFCC-60 of synthetic clips by us, a librosa loop and torchaudio's transforms, clip by clip and in batches of 20.

    All transform frames of 40 ms every 10 ms by an FFT of the same length; all take two derivatives.
    """
    import librosa
    import torchaudio

    waveforms = 0.1 * torch.randn(clips, round(seconds * sample_rate), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((clips,), waveforms.shape[1])
    ours = MFCC(sample_rate)
    size = {"n_fft": ours.n_fft, "win_length": ours.frame_length, "hop_length": ours.hop_length, "n_mels": 40}
    theirs = torchaudio.transforms.MFCC(sample_rate, 20, log_mels=True, melkwargs=size)
    slope = torchaudio.functional.compute_deltas
    arrays = waveforms.numpy()

    @torch.inference_mode()
    def capslib_batches() -> None:
        for i in range(0, clips, 20):
            ours(waveforms[i : i + 20], lengths[i : i + 20])

    @torch.inference_mode()
    def torchaudio_of(batch: int) -> None:
        for i in range(0, clips, batch):
            first = slope(theirs(waveforms[i : i + batch]))
            slope(first)

    def librosa_loop() -> None:
        for array in arrays:
            values = librosa.feature.mfcc(y=array, sr=sample_rate, n_mfcc=20, htk=True, **size)
            librosa.feature.delta(values)
            librosa.feature.delta(values, order=2)

    return clips_per_second(
        {
            "capslib": capslib_batches,
            "librosa loop": librosa_loop,
            "torchaudio, clip by clip": lambda: torchaudio_of(1),
            "torchaudio, batches of 20": lambda: torchaudio_of(20),
        },
        clips,
    )


def whole_run() -> tuple[str, float]:
    """Seconds of one full run of CAPS, 30 epochs on one thread: FSDD if it is here, else the synthetic digits."""
    key = "fsdd:digit" if corpora.find("fsdd") else "synth_digits:digit"
    job = study.grid([key], ["caps"], "full").runs[0].config
    record = training.train(replace(job, epochs=30))
    return job.title(), record["provenance"]["seconds"]


def reproduce() -> tuple[float, float]:
    """Seconds and largest memory (GiB, all processes together) of ``make reproduce`` from no records, into a scratch folder."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "capslib", "reproduce"]
        environment = {**os.environ, "CAPSLIB_REPORTS": scratch}
        environment.pop("CAPSLIB_DATA", None)  # as on a fresh clone: the embedded corpora only
        began, largest = time.perf_counter(), 0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            largest = max(largest, _memory(psutil.Process(process.pid)))
            time.sleep(0.5)
    if process.returncode:
        raise CapslibError(f"`{' '.join(command[1:])}` ended with status {process.returncode}: run it to see why")
    return time.perf_counter() - began, largest / 2**30


def _memory(process: psutil.Process) -> int:
    """Bytes of a process and all below it; pages that they share count once, where the system tells."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            facts = one.memory_full_info()
            total += getattr(facts, "pss", facts.rss)
        except psutil.Error:  # it ended meanwhile
            continue
    return total


def main() -> None:
    """Print a line a measurement and write ``reports/bench.json``."""
    results: dict[str, object] = {}
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        speeds = features()
        results[f"MFCC-60, clips of 3 s a second, {count} thread(s)"] = speeds
        print(f"MFCC-60 of 200 clips of 3 s, {count} thread(s), clips a second (medians of {REPEATS} turns):")
        for name, speed in speeds.items():
            print(f"  {name:28s} {speed:8.0f}   ours is {speeds['capslib'] / speed:4.2f} times that")
    torch.set_num_threads(threads)
    title, seconds = whole_run()
    results[f"seconds of a run: {title}, 30 epochs, one thread"] = seconds
    print(f"{title}, 30 epochs, one thread: {seconds:.0f} s")
    seconds, gigabytes = reproduce()
    results["make reproduce, quick"] = {"seconds": round(seconds, 1), "GiB": round(gigabytes, 2)}
    print(
        f"make reproduce at quick, from no records: {seconds:.0f} s, at most {gigabytes:.2f} GiB in all its processes"
    )
    paths.write_text(study.reports() / "quick" / "bench.json", json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
