"""Peak memory of one call beyond what it was given: measured, not estimated.

On a processor each candidate gets a process of its own. There the kernel's high-water mark of resident memory (``VmHWM``) is reset
just before the call (``/proc/self/clear_refs``) and read after it. On a GPU torch's allocator keeps the mark.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

MIB = 2**20
# What a call needs, made inside the fresh process: the call, a small call of the same kind, and the parameters.
Prepare = Callable[..., tuple[Callable[[], object], Callable[[], object], Sequence[torch.Tensor]]]


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(rf"^{field}:\s+(\d+) kB", file.read(), re.M)[1]) * 1024


def peak(call: Callable[[], object], parameters: Sequence[torch.Tensor], device: str = "cpu") -> float | None:
    """MiB of one call in this process at its highest, without what was there before and without parameter gradients.

    Gradients of ``parameters`` that the call leaves are taken off, because every formulation has to make them; if the
    highest point lies before they exist, that is a little too kind to a formulation.

    Args:
        call: run once.
        parameters: whose ``grad`` is not counted.
        device: "cpu" or "cuda".
    Returns:
        MiB, or None where the system does not tell (``/proc`` is Linux's).
    """
    for parameter in parameters:
        parameter.grad = None
    gc.collect()
    if device == "cpu":
        try:
            ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what the call needs
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
            before = _status("VmRSS")
        except (OSError, AttributeError, TypeError):
            return None
        call()
        extra = _status("VmHWM") - before
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    return round(max(0, extra - gradients) / MIB, 2)


def _prepared(prepare: Prepare, arguments: tuple, threads: int, device: str) -> float | None:
    torch.set_num_threads(threads)
    call, small, parameters = prepare(*arguments)
    small()  # threads, libraries and torch's own tables are there before the mark is set
    return peak(call, parameters, device)


def in_fresh_process(prepare: Prepare, arguments: tuple, device: str = "cpu") -> float | None:
    """``peak`` of the call that ``prepare(*arguments)`` makes, in a process that has done nothing else.

    Args:
        prepare: importable by name; returns the call, a tiny call of the same kind, and the parameters.
        arguments: picklable.
        device: on "cuda" the measurement stays in this process: its allocator counts exactly.
    """
    if device != "cpu":
        return _prepared(prepare, arguments, torch.get_num_threads(), device)
    # The server imports once and never computes, so its children start quickly and without threads of their own.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.routing", "torch.fx.experimental.symbolic_shapes"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_prepared, prepare, arguments, torch.get_num_threads(), device).result()
