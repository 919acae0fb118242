# ruff: noqa: ANN001, ANN201 (arguments of kernels are Triton's pointers and numbers; only constants are annotated)
"""Dynamic routing on a CUDA device in Triton kernels that never write the votes to memory.

Every iteration forms the votes of a tile in registers and sums what it needs of them; iterations share only the tiny
capsules V (B, J, D), the sum of the earlier outputs: the logits of an iteration are prior + votes . V (Sabour et al.
2017, procedure 1, unrolled). The couplings, (B, I, J) per iteration, are saved for the gradient. There are two forms:

    unshared  (I, J, F, D): a program takes a tile of the batch and some inputs; votes = u W in registers.
    shared    (J, F, D): the keys V go through W first, so that logits = u (W V) and s = (sum of coupled u) W.

Each program writes a partial sum, and the next kernel adds them in a fixed order: no atomics, so two runs give the same
bits. Letters as in ``capslib.layers.routing``; K counts the (coefficient, key) pairs of the gradient, see
``kernels_backward``. Sums are float32 (float64 for float64 inputs, which only the interpreter takes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without Triton still imports this module, and ``usable`` says no
    triton = None

from capslib.layers import kernels_backward
from capslib.layers.arguments import check_routing, check_sizes
from capslib.layers.kernels_backward import collect, fold_pass, kernel, project, vote_pass

LARGEST = 2**31 - 1  # offsets are 32-bit
SHARED_MEMORY = 200_000  # bytes per block for the largest tile: compute capability 9.0 and 10.0 have them, 8.x not
PROGRAMS = 256  # at least so many share an iteration where it can be split, and twice as many the last launch


@dataclass(frozen=True)
class Blocks:
    """Sizes of the kernels' tiles, fixed by the shapes alone so that the order of every sum is fixed too.

    Chosen by the registers and spills that the compiler reports for capability 9.0, not by timings, and there is no
    autotuning: it could choose another order of summing in another run. A tile of votes or of pooled inputs holds at
    most 16384 numbers in eight warps.
    """

    J: int  # output capsules, padded to a power of two
    D: int
    F: int  # shared: the whole padded F; unshared: the part of F in one product
    rows: int  # unshared: clips per tile; shared: inputs per tile
    steps: int  # unshared: inputs per program; shared: tiles per program; a power of two, to compile few variants
    splits: int  # partial sums
    warps: int
    gradient_F: int  # unshared: the part of F in one program of the last launch
    gradient_steps: int  # unshared: tiles of 16 clips in one program of the last launch
    gradient_splits: int  # unshared: partial sums of the weight's gradient


def power(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def share(units: int, programs: int) -> int:
    """Units of work per program: the largest power of two that leaves at least ``programs`` programs, or 1."""
    return 1 << max(units // programs, 1).bit_length() - 1


def blocks(B: int, I: int, F: int, J: int, D: int, shared: bool) -> Blocks:
    """Tile sizes for routing B x I x F -> J x D; see ``Blocks``. Tensor cores want 16 or more on every side."""
    wide = max(power(D), 2)
    tall = max(power(J), 16 if shared else 2)
    if shared:
        inner = max(power(F), 16)
        rows = min(max(8192 // inner, 16), 32)
        units, others = -(-I // rows), B
        warps = 8 if tall * inner > 2048 else 4
    else:
        tall = max(tall, 16 // wide)
        inner = min(max(power(F), 16), 32)
        rows = 32 if B > 16 and tall * wide <= 256 else 16
        units, others = I, -(-B // rows)
        warps = 8 if rows * tall * wide > 2048 else 4
    steps = share(units * others, PROGRAMS)
    part = min(max(power(F), 16), max(8192 // (tall * wide), 16), 64)
    chunks = -(-B // 16)
    gradient_steps = max(power(chunks) // max(power(2 * PROGRAMS // max(I, 1)), 1), 1)
    return Blocks(
        J=tall,
        D=wide,
        F=inner,
        rows=rows,
        steps=steps,
        splits=-(-units // steps),
        warps=warps,
        gradient_F=part,
        gradient_steps=gradient_steps,
        gradient_splits=-(-chunks // gradient_steps),
    )


@kernel
def finish(
    partial, count, total, weight, bias, before, s, v, after, folded, folded0,
    B, splits, total_b, w_j, w_f, w_d, bias_b, bias_j, bias_d, before_b, after_b, folded_b, folded0_b,
    LAST: tl.constexpr, SHARED: tl.constexpr, SAVE: tl.constexpr, KEYED: tl.constexpr, BIASED: tl.constexpr,
    F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr,
    ACC: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """End an iteration at one (b, j): add the partial sums to s, squash it to v, and write the next keys."""
    b = tl.program_id(0)
    j = tl.program_id(1)
    d = tl.arange(0, BD)
    x = collect(
        partial, count, total, weight, bias, b, j, B, splits, total_b, w_j, w_f, w_d, bias_b, bias_j, bias_d,
        SHARED, SAVE, BIASED, F, J, D, SPLITS, BF, BD, ACC,
    )  # fmt: skip
    square = tl.sum(x * x, 0)
    out = x * (square / ((1.0 + square) * tl.sqrt(square + TINY)))
    if SAVE:
        tl.store(s + (b * J + j) * D + d, x, mask=d < D)
    if LAST:
        tl.store(v + (b * J + j) * D + d, out, mask=d < D)
    else:
        if KEYED:
            out += tl.load(before + b * before_b + j * D + d, mask=d < D, other=0.0)
        tl.store(after + b * after_b + j * D + d, out, mask=d < D)
        if SHARED:
            project(
                out, weight, bias, folded, folded0, b, j, w_j, w_f, w_d, bias_b, bias_j, bias_d, folded_b, folded0_b,
                BIASED, F, J, D, BF, BD, ACC,
            )  # fmt: skip


@dataclass
class Plan:
    """The tensors of one call, inputs and what is saved for the gradient, and how the kernels are launched on them."""

    u: Tensor  # (B, I, F)
    weight: Tensor  # (J, F, D) or (I, J, F, D)
    bias: Tensor | None  # (J, D) or (B, J, D)
    prior: Tensor | None
    mask: Tensor | None  # (B, I)
    iterations: int
    full: bool  # every iteration is saved, for a gradient through all of them; else only the last
    saved: bool  # something is saved
    buffers: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        u, weight = self.u, self.weight
        self.shared = weight.dim() == 3
        (B, I, F), (J, D) = u.shape, (weight.shape[-3], weight.shape[-1])
        self.sizes = B, I, F, J, D
        self.blocks = blocks(B, I, F, J, D, self.shared)
        wide = {"dtype": torch.float64 if u.dtype == torch.float64 else torch.float32, "device": u.device}
        K = 2 * self.iterations - 1 if self.full else 1
        self.K = K
        self.wide = wide
        if not self.buffers:
            slots = K if self.full else 3
            none = torch.empty(0, **wide)
            self.buffers = (
                torch.empty(B, I, K, J, **wide),
                torch.empty(B, slots, J, D, **wide),
                torch.empty(self.iterations if self.full else 1, B, J, D, **wide),
                torch.empty(B, slots, J, F, **wide) if self.shared else none,
                torch.empty(B, slots, J, **wide) if self.shared else none,
                torch.empty(B, K, J, F, **wide) if self.shared else none,
            )
        self.coefficients, self.keys, self.s, self.folded, self.folded0, self.total = self.buffers
        self.partial = torch.empty(self.blocks.splits, B, J, F if self.shared else D, **wide)
        self.count = torch.empty(self.blocks.splits, B, J, **wide)
        self.weight_strides = weight.stride()
        self.bias_strides = (0, 0, 0) if self.bias is None else ((0,) * (3 - self.bias.dim()) + self.bias.stride())
        self.mask_strides = (0, 0) if self.mask is None else self.mask.stride()
        self.prior_strides = (0, 0, 0) if self.prior is None else self.prior.expand(B, I, J).stride()
        self.ACC = tl.float64 if wide["dtype"] == torch.float64 else tl.float32
        self.PRECISION = {torch.float64: "ieee", torch.float32: "tf32x3"}.get(u.dtype, "tf32")
        self.TINY = torch.finfo(wide["dtype"]).tiny ** 0.5  # as in ``squash``

    def slot(self, t: int) -> int:
        """The slot of iteration t's coupling and of the gradient of its s."""
        return t - 1 if self.full else 0

    def key_slot(self, t: int) -> int:
        """The slot of the sum of the first t outputs.

        Without a full gradient there are two in turn, so that none is read and written by one launch.
        """
        return self.iterations + t - 1 if self.full else 1 + t % 2

    def run(self, key: int | None, coefficient: Tensor, coupling: Tensor | None = None) -> None:
        """One pass over the inputs with the keys in slot ``key``; backward if a coupling (B, I, J) is given."""
        B, I, F, J, D = self.sizes
        size = self.blocks
        spare = self.keys
        flags = {
            "BACKWARD": coupling is not None,
            "KEYED": key is not None,
            "BIASED": self.bias is not None,
            "MASKED": self.mask is not None,
            "PRIOR": self.prior is not None and coupling is None,
        }
        mask = spare if self.mask is None else self.mask
        prior = spare if self.prior is None else self.prior
        c = coefficient if coupling is None else coupling
        keys = spare if key is None else self.keys[:, key]
        rows = c.stride(1), coefficient.stride(1)
        tiles = {"F": F, "J": J, "STEPS": size.steps, "ROWS": size.rows, "BF": size.F, "BJ": size.J}
        numbers = {"ACC": self.ACC, "PRECISION": self.PRECISION, "num_warps": size.warps}
        strides = (*self.mask_strides, *self.prior_strides)
        if self.shared:
            folded, folded0 = (spare, spare) if key is None else (self.folded[:, key], self.folded0[:, key])
            fold_pass[(B, size.splits)](
                self.u, mask, prior, folded, folded0, c, coefficient, self.partial, self.count, B, I, *self.u.stride(),
                *strides, folded.stride(0), folded0.stride(0), *rows,
                CHUNK=min(size.F, 32), **flags, **tiles, **numbers,
            )  # fmt: skip
            return
        half = self.u.is_cuda and self.u.dtype == self.weight.dtype and self.u.dtype != torch.float32
        product = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[self.u.dtype] if half else self.ACC
        bias = spare if self.bias is None else self.bias
        vote_pass[(-(-B // size.rows), size.splits)](
            self.u, self.weight, bias, mask, prior, keys, c, coefficient, self.partial, B, I, *self.u.stride(),
            *self.weight_strides, *self.bias_strides, *strides, keys.stride(0), *rows, D=D, BD=size.D, MUL=product,
            **flags, **tiles, **numbers,
        )  # fmt: skip

    def ends(self) -> dict[str, Any]:
        """Sizes and flags of the kernels that end an iteration, forward or backward."""
        _, _, F, J, D = self.sizes
        splits = power(self.blocks.splits)
        part = min(power(F), max(8192 // max(splits, self.blocks.D), 1))
        return {
            "SHARED": self.shared, "BIASED": self.bias is not None, "F": F, "J": J, "D": D, "SPLITS": splits,
            "BF": part, "BD": self.blocks.D, "ACC": self.ACC, "TINY": self.TINY,
        }  # fmt: skip


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, u: Tensor, weight: Tensor, bias: Tensor | None, prior: Tensor | None, mask: Tensor | None,
        iterations: int, full: bool, saved: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (B, I, _), (J, D) = u.shape, (weight.shape[-3], weight.shape[-1])
        v = u.new_empty(B, J, D)
        if B == 0 or I == 0:
            coupling = u.new_zeros(B, I, J)
            v.zero_()
            ctx.plan = None
            ctx.save_for_backward(u, weight, bias, prior, mask)
        else:
            with torch.cuda.device_of(u):
                plan = Plan(u, weight, bias, prior, mask, iterations, full, saved)
                coupling = _forward(plan, v).to(u.dtype)
            ctx.plan = iterations, full, saved
            if saved:
                ctx.save_for_backward(u, weight, bias, prior, mask, *plan.buffers)
        ctx.mark_non_differentiable(coupling)
        return v, coupling

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_v: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        u, weight, bias, prior, mask, *buffers = ctx.saved_tensors
        if ctx.plan is None:
            grads = [None if x is None else torch.zeros_like(x) for x in (u, weight, bias, prior)]
        else:
            with torch.cuda.device_of(u), torch.autocast(u.device.type, enabled=False):
                plan = Plan(u, weight, bias, prior, mask, *ctx.plan, buffers=tuple(buffers))
                grads = kernels_backward.gradients(plan, grad_v, ctx.needs_input_grad[:4])
        return (*grads, None, None, None, None)


def _forward(plan: Plan, v: Tensor) -> Tensor:
    """All iterations; fills ``v`` and returns the last coupling, (B, I, J)."""
    B, _, _, J, _ = plan.sizes
    spare = plan.keys
    bias = spare if plan.bias is None else plan.bias
    for t in range(1, plan.iterations + 1):
        last, keyed = t == plan.iterations, t > 1
        here, before = plan.slot(t), plan.key_slot(t - 1)
        plan.run(before if keyed else None, plan.coefficients[:, :, here])
        after = spare if last else plan.keys[:, plan.key_slot(t)]
        earlier = plan.keys[:, before] if keyed else spare
        folds = plan.shared and not last
        folded = plan.folded[:, plan.key_slot(t)] if folds else spare
        folded0 = plan.folded0[:, plan.key_slot(t)] if folds else spare
        total = plan.total[:, here] if plan.shared else spare
        finish[(B, J)](
            plan.partial, plan.count, total, plan.weight, bias, earlier, plan.s[here], v, after, folded, folded0,
            B, plan.blocks.splits, total.stride(0), *plan.weight_strides[-3:], *plan.bias_strides,
            earlier.stride(0), after.stride(0), folded.stride(0), folded0.stride(0),
            LAST=last, SAVE=plan.saved, KEYED=keyed, **plan.ends(),
        )  # fmt: skip
    return plan.coefficients[:, :, plan.slot(plan.iterations)]


def _refusal(u: Tensor, weight: Tensor) -> str | None:
    """Why the kernels cannot take these sizes, or None."""
    F, D, J = u.shape[-1], weight.shape[-1], weight.shape[-3]
    if min(F, J, D) < 1:
        return "F, J and D must be at least 1"
    if D > 64:
        return f"output capsules of {D} numbers, the kernels hold at most 64"
    if weight.dim() == 3 and (F > 512 or max(power(J), 16) * power(F) > 16384):
        return f"{J} shared matrices for inputs of {F} numbers, the kernels hold 32 x 512 (or 64 x 256, ...)"
    if weight.dim() == 4 and (F > 1024 or max(power(J), 2) * max(power(D), 2) > 512):
        held = "512 numbers (padded to powers of two) and F = 1024"
        return f"{J} output capsules of {D} numbers from inputs of {F}, the kernels hold {held}"
    if any(sum((n - 1) * abs(s) for n, s in zip(x.shape, x.stride(), strict=True)) > LARGEST for x in (u, weight)):
        return "u or weight spans more than 2**31 numbers"
    return None


def usable(u: Tensor, weight: Tensor) -> bool:
    """True if ``routed`` can run here: Triton, a CUDA device with the shared memory, float types, sizes that fit."""
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    return (
        triton is not None
        and torch.version.hip is None
        and u.is_cuda
        and weight.device == u.device
        and u.dtype in kinds
        and weight.dtype in kinds
        and torch.cuda.get_device_properties(u.device).shared_memory_per_block_optin >= SHARED_MEMORY
        and _refusal(u, weight) is None
    )


@torch.compiler.disable
def routed(
    u: Tensor,
    weight: Tensor,
    num_iterations: int = 3,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    prior: Tensor | None = None,
    detach_iterations: bool = False,
) -> tuple[Tensor, Tensor]:
    """Dynamic routing as ``capslib.layers.routing.route`` computes it, by the kernels of this module.

    Args:
        u: input capsules, (B, I, F), any strides; float32, float16 or bfloat16 (float64 in the interpreter only).
        weight: (J, F, D) or (I, J, F, D), any strides; may differ from ``u`` in dtype, as under autocast.
        num_iterations: routing iterations, at least 1 (default 3).
        bias: added to every vote, (J, D) or (B, J, D).
        mask: True at valid input capsules, (B, I); what stands at others is not read.
        prior: initial logits, broadcastable to (B, I, J).
        detach_iterations: take the last coupling as a constant in the gradient (default no: through every iteration).
    Returns:
        Output capsules (B, J, D) and the last coupling (B, I, J), without a gradient, both of ``u``'s dtype.
    Raises:
        ValueError: if Triton is not installed, if the sizes are beyond the kernels or if shapes do not fit.
    """
    if triton is None:
        raise ValueError("Triton is not installed: use route, which falls back to torch")
    check_sizes(num_iterations=num_iterations)
    check_routing(u, weight, mask, bias, prior)
    refusal = _refusal(u, weight)
    couplings = u.shape[0] * u.shape[1] * weight.shape[-3]
    if refusal is None and couplings * (2 * num_iterations - 1) > LARGEST:
        refusal = "couplings of all iterations span more than 2**31 numbers"
    if refusal is not None:
        raise ValueError(f"{refusal}: use route, which falls back to torch")
    inputs = [x for x in (u, weight, bias, prior) if x is not None]
    saved = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _Routed.apply(u, weight, bias, prior, mask, num_iterations, saved and not detach_iterations, saved)
