"""Peak memory of one call beyond its inputs: measured, not estimated.

On a processor each candidate gets a process of its own. There the kernel's high-water mark of resident memory
(``VmHWM``) is reset just before the call (``/proc/self/clear_refs``) and read after it. On a GPU torch's allocator has
such a mark.
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
# Run inside the fresh process; returns the call, a small call of the same kind, and the parameters.
Prepare = Callable[..., tuple[Callable[[], object], Callable[[], object], Sequence[torch.Tensor]]]


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(rf"^{field}:\s+(\d+) kB", file.read(), re.M)[1]) * 1024


def peak(call: Callable[[], object], parameters: Sequence[torch.Tensor], device: str = "cpu") -> float | None:
    """Peak memory of one call in this process, without what was allocated before and without parameter gradients.

    Gradients of ``parameters`` that the call leaves are subtracted, because every formulation has to compute them; if
    the peak lies before they exist, that is a little too kind to a formulation.

    Args:
        call: run once.
        parameters: whose ``grad`` is not counted.
        device: "cpu" or "cuda".
    Returns:
        MiB, or None where the system does not report it (``/proc`` is Linux's).
    """
    for parameter in parameters:
        parameter.grad = None
    gc.collect()
    if device == "cpu":
        try:
            ctypes.CDLL(None).malloc_trim(0)  # free memory that the heap still holds would hide what is needed
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
    small()  # loads libraries and starts threads before the mark is set
    return peak(call, parameters, device)


def in_fresh_process(prepare: Prepare, arguments: tuple, device: str = "cpu") -> float | None:
    """``peak`` of the call that ``prepare(*arguments)`` returns, in a process that has done nothing else.

    Args:
        prepare: importable by name.
        arguments: picklable.
        device: on "cuda" the measurement stays in this process: torch's allocator counts exactly.
    """
    if device != "cpu":
        return _prepared(prepare, arguments, torch.get_num_threads(), device)
    # The server imports once and never computes, so its children start quickly and without threads of their own.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.routing", "torch.fx.experimental.symbolic_shapes"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_prepared, prepare, arguments, torch.get_num_threads(), device).result()
