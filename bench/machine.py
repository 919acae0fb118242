"""What kind of machine measured and the most that it can do; never which machine it was."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench import timing

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
COPY_BYTES = 256 * 10**6
MATMUL_SIZES = (1024, 1536, 2048)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kind(device: str = "cpu") -> str:
    """Name of the folder for this kind of machine: "two-core-cpu", or the GPU's name."""
    if device == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    count = cores()
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count}-core-cpu"


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def describe(device: str = "cpu") -> dict[str, object]:
    """Kind, processor, cores, threads, versions and the date; no names of hosts, no paths."""
    return {
        "kind": kind(device),
        "device": device,
        "processor": _processor() if device == "cpu" else torch.cuda.get_device_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def ceilings(
    device: str = "cpu", repeats: int = timing.REPEATS, size: int = COPY_BYTES, sides: tuple[int, ...] = MATMUL_SIZES
) -> dict[str, float]:
    """The highest rates of moving and multiplying that this machine reached in this run; limits are computed from them.

    Copy (b = a) counts two arrays and triad (a = b + s c) three, as STREAM does. The arrays are allocated before and
    too large for any cache. Matrix products are of squares in float32; the fastest size counts. The shortest of the
    repeats is taken, not the median: a ceiling lowered by noise would flatter us.

    Args:
        device: "cpu" or "cuda".
        repeats: measurements of each, after one more.
        size: bytes of an array.
        sides: of the squares.
    Returns:
        copy, triad (bytes per second), matmul (FLOPs per second), and on a GPU matmul_tf32.
    """
    count = size // 4
    a, b, c = (torch.ones(count, device=device) for _ in range(3))
    copy = min(timing.once(partial(a.copy_, b), device) for _ in range(repeats + 1))
    triad = min(timing.once(partial(torch.add, b, c, alpha=0.5, out=a), device) for _ in range(repeats + 1))
    rates = {"copy": 2 * a.nbytes / copy, "triad": 3 * a.nbytes / triad, "matmul": 0.0}
    for side in sides:
        x, y = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
        out = torch.empty_like(x)
        product = partial(torch.mm, x, y, out=out)
        rates["matmul"] = max(rates["matmul"], _rate(product, side, device, repeats))
        if device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            rates["matmul_tf32"] = max(rates.get("matmul_tf32", 0.0), _rate(product, side, device, repeats))
            torch.backends.cuda.matmul.allow_tf32 = False
    return rates


def _rate(product: Callable[[], object], side: int, device: str, repeats: int) -> float:
    return 2 * side**3 / min(timing.once(product, device) for _ in range(repeats + 1))
