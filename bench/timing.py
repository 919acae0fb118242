"""Times that can be compared: candidates in turns, medians and quartiles, no garbage collection in between."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

REPEATS = 7
TURN_SECONDS = 0.05


@contextmanager
def threads(count: int) -> Iterator[None]:
    """``count`` threads for torch's operators inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def once(call: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call: by the clock, or between two CUDA events on an otherwise idle device."""
    if device == "cpu":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    torch.cuda.synchronize()
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    call()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    device: str = "cpu",
    turn_seconds: float | None = None,
) -> dict[str, dict[str, float]]:
    """Seconds per call of every candidate, in turns, so that a machine that drifts affects all alike.

    The first turn is discarded: it compiles, loads and faults pages in. Every turn begins one candidate later, so that
    no candidate always follows the same one. A turn of a quick candidate is the mean of several calls after one that
    is not counted, so that its caches are its own; a turn of a candidate slower than ``turn_seconds`` is a single
    call.

    Args:
        calls: by name.
        repeats: turns that count.
        device: "cpu" or "cuda".
        turn_seconds: duration of a turn of a quick candidate; default ``TURN_SECONDS``.
    Returns:
        By name: median, lower and upper quartile (seconds), repeats.
    """
    turn_seconds = TURN_SECONDS if turn_seconds is None else turn_seconds
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    last: dict[str, float] = {}
    collecting = gc.isenabled()
    gc.freeze()  # objects that exist already need not be traversed again before every candidate
    gc.disable()
    try:
        for turn in range(repeats + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                gc.collect()
                expected = last.get(name)
                if expected is not None and expected < turn_seconds:
                    once(calls[name], device)
                count = 1 if expected is None else max(1, int(turn_seconds / max(expected, 1e-6)))
                last[name] = _mean(calls[name], min(count, 1000), device)
                if turn:
                    seconds[name].append(last[name])
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return {name: summary(values) for name, values in seconds.items()}


def _mean(call: Callable[[], object], count: int, device: str) -> float:
    def all_of_them() -> None:
        for _ in range(count):
            call()

    return once(all_of_them, device) / count


def summary(values: list[float]) -> dict[str, float]:
    """Median, quartiles and number of ``values``."""
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "lower": float(lower), "upper": float(upper), "repeats": len(values)}
