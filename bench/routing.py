"""Routing alone: time and memory of every formulation on the study's shapes, beside an estimated limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from bench import machine, memory, timing
from bench.formulations import EINSUM, HEINSEN, NATIVE, OURS, OURS_DETACHED, ROWS, SAME_RULE, HeinsenRouting
from bench.store import Store


@dataclass(frozen=True)
class Shape:
    """What is routed: B x I x F -> J x D, one weight matrix per output capsule (``shared``) or per input and output."""

    B: int
    I: int
    F: int
    J: int
    D: int
    shared: bool = False
    iterations: int = 3

    def __str__(self) -> str:
        weights = "shared weights" if self.shared else "unshared weights"
        return f"{self.B} x {self.I} x {self.F} -> {self.J} x {self.D}, {weights}"


SHAPES: Mapping[str, Shape] = {
    "a": Shape(32, 1152, 8, 10, 16),  # Sabour et al.'s last layer
    "b": Shape(144, 1280, 8, 8, 8),  # P1's windows
    "c": Shape(32, 300, 256, 10, 16, shared=True),  # P0's capsules over time steps
    "c'": Shape(32, 300, 256, 10, 16),
}
TINY = Shape(2, 3, 4, 2, 5)


@dataclass(frozen=True)
class Calls:
    """One formulation at one shape, ready to run: forward without a graph, and both directions with all gradients."""

    forward: Callable[[], Tensor]
    both: Callable[[], None]
    parameters: Sequence[Tensor]


def calls(shape: Shape, row: str, device: str = "cpu") -> Calls:
    """A formulation with the inputs that all rows of a shape have: unit normal capsules, weights that saturate nothing.

    Unshared weights lie in memory as each row expects them: (I, J, D, F) for ours, as in ``CapsuleLayer``, and
    (I, J, F, D) for others.

    Args:
        shape: of the inputs.
        row: one of ``ROWS``.
        device: "cpu" or "cuda".
    """
    generator = torch.Generator().manual_seed(0)
    own = () if shape.shared else (shape.I,)
    u = torch.randn(shape.B, shape.I, shape.F, generator=generator).to(device).requires_grad_()
    drawn = torch.randn(*own, shape.J, shape.F, shape.D, generator=generator)
    gradient = torch.randn(shape.B, shape.J, shape.D, generator=generator).to(device)
    if row == HEINSEN:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inputs = None if shape.shared else shape.I
            layer: nn.Module = HeinsenRouting(inputs, shape.F, shape.J, shape.D, shape.iterations).to(device)
        parameters = list(layer.parameters())
        run = lambda: layer(u)  # noqa: E731
    else:
        weight = (drawn / (shape.F * shape.I) ** 0.5).to(device)
        transposed = row in (OURS, NATIVE, OURS_DETACHED) and not shape.shared
        stored = (weight.transpose(-1, -2).contiguous() if transposed else weight).requires_grad_()
        parameters = [stored]
        run = lambda: SAME_RULE[row](u, stored.transpose(-1, -2) if transposed else stored, shape.iterations)  # noqa: E731

    def both() -> None:
        for leaf in (u, *parameters):
            leaf.grad = None
        run().backward(gradient)

    return Calls(torch.no_grad()(run), both, parameters)


def for_memory(shape: Shape, row: str, direction: str, device: str) -> tuple[Callable, Callable, Sequence[Tensor]]:
    """The call, a tiny one of its kind, and the parameters: a ``memory.Prepare``."""
    measured, tiny = calls(shape, row, device), calls(replace(TINY, shared=shape.shared), row, device)
    return getattr(measured, direction), tiny.both, measured.parameters


def work(shape: Shape) -> dict[str, list[tuple[float, float]]]:
    """Bytes and FLOPs that an ideal kernel cannot avoid, in float32, for n iterations.

    Let U = 4 B I F, W = 4 I J F D and V = 4 B I J D be the bytes of inputs, weights and votes, G = 2 B I F J D the
    FLOPs of computing all votes and R = 2 B I J D those of one sum over them. With unshared weights:

        forward            U + W + n V bytes, G + (2 n - 1) R FLOPs: votes are written once; every later iteration
                           reads them once and does both of its sums
        backward           2 U + 2 W bytes, 2 G FLOPs: gradients of inputs and weights
        full gradient      2 (n - 1) V bytes more: votes and their gradient, once per inner iteration

    With shared weights (W = 4 J F D) votes are never formed, and with P = 2 B I F J:

        forward            U + W bytes, (2 n - 2) P FLOPs: the first iteration is a plain mean
        both               three times as much

    Returns:
        By direction ("forward", "detached", "both"), lists of terms to be added, each a pair (bytes, FLOPs).
    """
    B, I, F, J, D, n = shape.B, shape.I, shape.F, shape.J, shape.D, shape.iterations
    inputs = 4 * B * I * F
    if shape.shared:
        forward = (inputs + 4 * J * F * D, (2 * n - 2) * 2 * B * I * F * J)
        last = 2 * B * I * F * J  # the last iteration alone: gradients of its pooling, to inputs and weights
        detached = [forward, (2 * inputs, 2 * last)]
        return {"forward": [forward], "detached": detached, "both": [tuple(3 * amount for amount in forward)]}
    weights, votes = 4 * I * J * F * D, 4 * B * I * J * D
    product, one_sum = 2 * B * I * F * J * D, 2 * B * I * J * D
    forward = (inputs + weights + n * votes, product + (2 * n - 1) * one_sum)
    backward = (2 * inputs + 2 * weights, 2 * product)
    inner = (2 * (n - 1) * votes, 0)
    return {"forward": [forward], "detached": [forward, backward], "both": [forward, backward, inner]}


def limit(shape: Shape, ceilings: Mapping[str, float]) -> dict[str, float]:
    """Estimated least seconds by direction, from the rates of ``machine.ceilings``.

    Each term of ``work`` takes its bytes at the rate of triad or its FLOPs at that of the matrix product, whichever is
    longer. The estimate assumes votes in main memory: where they fit into a cache, it can be undercut.
    """
    return {
        direction: sum(max(moved / ceilings["triad"], flops / ceilings["matmul"]) for moved, flops in terms)
        for direction, terms in work(shape).items()
    }


def fused(shape: Shape) -> dict[str, tuple[float, float]]:
    """Bytes and FLOPs of a kernel that keeps votes on the chip, by direction: what a GPU's achieved rates count.

    Inputs, weights and outputs cross once forward; backward they cross again, with their gradients. Votes are computed
    once forward and again backward.
    """
    B, I, F, J, D, n = shape.B, shape.I, shape.F, shape.J, shape.D, shape.iterations
    crossing = 4 * (B * I * F + (1 if shape.shared else I) * J * F * D + B * J * D)
    if shape.shared:
        flops = (2 * n - 2) * 2 * B * I * F * J
        return {"forward": (crossing, flops), "both": (3 * crossing, 3 * flops)}
    product, sums = 2 * B * I * F * J * D, (2 * n - 1) * 2 * B * I * J * D
    return {"forward": (crossing, product + sums), "both": (3 * crossing, 4 * product + 3 * sums)}


def compare(
    shape: Shape, rows: Sequence[str], device: str = "cpu", repeats: int = timing.REPEATS, peaks: bool = True
) -> dict[str, dict[str, object]]:
    """Time and memory of each row at one shape, all in turns.

    Args:
        shape, rows, device, repeats: what to measure and how often.
        peaks: measure memory, too, in a fresh process for each row and direction.
    Returns:
        By row: forward and both (see ``timing.in_turns``), "MiB forward" and "MiB both" (see ``memory.peak``), and
        "difference", the largest from our outputs (None for another rule); or "failed", with the reason.
    """
    results: dict[str, dict[str, object]] = {row: {} for row in rows}
    ready: dict[str, Calls] = {}
    expected = calls(shape, OURS, device).forward()
    for row in rows:
        try:
            formulation = calls(shape, row, device)
            difference = (formulation.forward() - expected).abs().max().item()
            formulation.both()
        except (RuntimeError, MemoryError) as error:  # too large for this machine: the others go on
            results[row]["failed"] = str(error).splitlines()[0][:200]
            continue
        ready[row] = formulation
        results[row]["difference"] = None if row == HEINSEN else difference
        for direction in ("forward", "both") if peaks else ():
            arguments = (shape, row, direction, device)
            results[row][f"MiB {direction}"] = memory.in_fresh_process(for_memory, arguments, device)
    for direction in ("forward", "both"):
        candidates = {row: getattr(formulation, direction) for row, formulation in ready.items()}
        for row, seconds in timing.in_turns(candidates, repeats, device).items():
            results[row][direction] = seconds
    return results


def measure(store: Store) -> None:
    """The study's shapes, one entry per shape."""
    ceilings = machine.ceilings(store.device, store.repeats)
    print("ceilings: " + ", ".join(f"{name} {rate / 1e9:.0f} G/s" for name, rate in ceilings.items()))
    for name, shape in SHAPES.items():
        native = store.device == "cpu" and not shape.shared
        rows = compare(shape, [row for row in ROWS if row != NATIVE or native], store.device, store.repeats)
        least = limit(shape, ceilings)
        print(f"({name}) {shape}, estimated limit {1e3 * least['both']:.1f} ms:")
        for row, result in rows.items():
            print(f"  {row:66s} {_line(result, rows[OURS])}")
        facts = {"shape": asdict(shape), "ceilings": ceilings, "limit": least, "fused": fused(shape)}
        store.add(name, {"rows": rows, **facts})


def _line(result: Mapping[str, object], ours: Mapping[str, object]) -> str:
    """Milliseconds, MiB and the ratio to our row, as they are printed."""
    if "both" not in result or "both" not in ours:
        return f"failed: {result.get('failed', 'ours did')}"
    median = result["both"]["median"]
    extra = "?" if result.get("MiB both") is None else f"{result['MiB both']:.0f}"
    return f"{1e3 * median:8.1f} ms {extra:>6s} MiB  {median / ours['both']['median']:6.2f} times ours"


# Each letter alone, around the middle: wide enough for a slope, small enough for a minute.
MIDDLE = Shape(16, 256, 32, 8, 16)
GROWTH: Mapping[str, Sequence[int]] = {
    "B": (1, 4, 16, 64, 256),
    "I": (16, 64, 256, 1024, 4096),
    "J": (2, 4, 8, 16, 32, 64),
    "D": (4, 8, 16, 32, 64),
    "iterations": (1, 2, 3, 5, 9),
}


def growth(store: Store) -> None:
    """Ours (both gradients) and the einsum formulation as one size grows, one entry per size and kind of weights."""
    for shared in (False, True):
        for letter, values in GROWTH.items():
            points = []
            for value in values:
                shape = replace(MIDDLE, shared=shared, **{letter: value})
                rows = compare(shape, (OURS, OURS_DETACHED, EINSUM), store.device, store.repeats, peaks=False)
                points.append({"value": value, "rows": rows})
                ours, einsum = (_line(rows[row], rows[OURS]) for row in (OURS, EINSUM))
                print(f"{letter} = {value}, {shape}: ours {ours}; einsum {einsum}")
            # Entries have the names of those in data/measured, so that new ones replace them.
            name = f"{letter}, {'one matrix' if shared else 'a matrix an input'}"
            store.add(name, {"middle": asdict(replace(MIDDLE, shared=shared)), "letter": letter, "points": points})
