"""Dynamic routing on a CUDA device in Triton kernels that never write the votes to memory.

Every iteration forms the votes of a tile in registers and sums what it needs of them; iterations share only the tiny
capsules V (B, J, D), the sum of the earlier outputs: the logits of an iteration are prior + votes . V (Sabour et al.
2017, procedure 1, unrolled). The couplings, (B, I, J) per iteration, are saved for the gradient. There are two forms:

    unshared  (I, J, F, D): a program takes a tile of the batch and some inputs; votes = u W in registers.
    shared    (J, F, D): the keys V go through W first, so that logits = u (W V) and s = (sum of coupled u) W.

The gradient is by hand. With a the logits, c their softmax and q the votes, iteration t leaves behind

    ds^t = squash'(s^t) dv^t,       da^t = softmax'(c^t) (mask * q . ds^t),
    dV^{t-1} = sum_i da^t q,        dv^{t-1} = sum_{t' >= t} dV^{t'-1}

so the votes' gradient is a sum of products of a coefficient (B, I, K, J) and a key (B, K, J, D) that needs no votes:

    dq_ij = sum_t c^t_ij ds^t_j + da^t_ij V^{t-1}_j,   K = 2n - 1 (V^0 is zero); K = 1 if the couplings are constants.

Slot k = t - 1 holds the pair (c^t, ds^t), slot k = n + t - 2 the pair (da^t, V^{t-1}).

Each program writes a partial sum, and the next kernel adds them in a fixed order: no atomics, so two runs give the same
bits. Letters as in ``capslib.layers.routing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from capslib.layers.kernels_triton import finish, finish_backward, fold_pass, triton, unshared_gradient, vote_pass

LARGEST = 2**31 - 1  # offsets are 32-bit
SHARED_MEMORY = 200_000  # bytes per block for the largest tile: compute capability 9.0 and 10.0 have them, 8.x not
PROGRAMS = 256  # at least so many share an iteration where it can be split, and twice as many the last launch


@dataclass(frozen=True)
class Blocks:
    """Sizes of the kernels' tiles, fixed by the shapes alone so that the order of every sum is fixed too.

    Chosen by the registers and spills that the compiler reports for capability 9.0, never by autotuning, which could
    sum in another order in another run. A tile of votes or of pooled inputs is at most 16384 numbers in eight warps.
    """

    J: int  # output capsules, padded to a power of two
    D: int
    F: int  # shared: the whole padded F; unshared: the part of F in one product
    rows: int  # unshared: clips per tile; shared: inputs per tile
    steps: int  # unshared: inputs per program; shared: tiles per program; a power of two, to compile few variants
    splits: int  # partial sums
    warps: int


def power(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def blocks(B: int, I: int, F: int, J: int, D: int, shared: bool) -> Blocks:
    """Tile sizes for routing B x I x F -> J x D; see ``Blocks``. Tensor cores want 16 or more on every side."""
    wide, tall, inner = max(power(D), 2), max(power(J), 16 if shared else 2), max(power(F), 16)
    if shared:
        rows = min(max(8192 // inner, 16), 32)
        units, others, size = -(-I // rows), B, tall * inner
    else:
        tall, inner = max(tall, 16 // wide), min(inner, 32)
        rows = 32 if B > 16 and tall * wide <= 256 else 16
        units, others, size = I, -(-B // rows), rows * tall * wide
    # Of those that leave at least PROGRAMS programs the largest power of two, or 1.
    steps = 1 << max(units * others // PROGRAMS, 1).bit_length() - 1
    return Blocks(tall, wide, inner, rows, steps, -(-units // steps), 8 if size > 2048 else 4)


def argument(x: Tensor | None) -> tuple[Tensor | int, ...] | None:
    """A tensor as the kernels take it: with its strides."""
    return None if x is None else (x, *x.stride())


def at(buffer: Tensor | None, slot: int | None) -> tuple[Tensor | int, ...] | None:
    """The argument for ``buffer[:, slot]``."""
    return None if buffer is None or slot is None else argument(buffer[:, slot])


class Plan:
    """The tensors of one call, inputs and what is saved for the gradient, and how the kernels are launched on them.

    Args:
        u, weight, bias, prior: (B, I, F); (J, F, D) or (I, J, F, D); (B, J, D) or None; (B, I, J) or None.
        mask: (B, I) or None.
        iterations: n.
        full: every iteration is saved, for a gradient through all of them; else only the last.
        buffers: those that the forward filled; new ones by default.
    """

    def __init__(
        self, u: Tensor, weight: Tensor, bias: Tensor | None, prior: Tensor | None, mask: Tensor | None,
        iterations: int, full: bool, buffers: Sequence[Tensor | None] = (),
    ) -> None:  # fmt: skip
        self.u, self.weight, self.bias, self.prior, self.mask = u, weight, bias, prior, mask
        self.iterations, self.full, self.shared = iterations, full, weight.dim() == 3
        (B, I, F), (J, D) = u.shape, (weight.shape[-3], weight.shape[-1])
        self.sizes = B, I, F, J, D
        self.blocks = size = blocks(*self.sizes, self.shared)
        self.K = K = 2 * iterations - 1 if full else 1
        if not buffers:
            slots = K if full else 3
            buffers = [
                u.new_empty(B, I, K, J),
                u.new_empty(B, slots, J, D),
                u.new_empty(iterations if full else 1, B, J, D),
                u.new_empty(B, slots, J, F) if self.shared else None,
                u.new_empty(B, slots, J) if self.shared else None,
                u.new_empty(B, K, J, F) if self.shared else None,
            ]
        self.buffers = buffers
        self.coefficients, self.keys, self.s, self.folded, self.folded0, self.total = buffers
        self.partial = u.new_empty(size.splits, B, J, F if self.shared else D)
        self.count = u.new_empty(size.splits, B, J) if self.shared else None
        splits = power(size.splits)
        self.ends = {  # arguments of the kernels that end an iteration, forward or backward
            "partial": self.partial, "count": self.count, "weight": argument(weight) if self.shared else None,
            "bias": argument(bias), "B": B, "splits": size.splits, "F": F, "J": J, "D": D, "SPLITS": splits,
            "BF": min(power(F), max(8192 // max(splits, size.D), 1)), "BD": size.D,
            "TINY": torch.finfo(u.dtype).tiny ** 0.5,  # as in ``squash``
        }  # fmt: skip

    def slot(self, t: int) -> int:
        """The slot of iteration t's coupling and of the gradient of its s."""
        return t - 1 if self.full else 0

    def key_slot(self, t: int) -> int | None:
        """The slot of the sum of the first t outputs, which no iteration needs at either end.

        Without a full gradient there are two in turn, so that none is read and written by one launch.
        """
        if not 0 < t < self.iterations:
            return None
        return self.iterations + t - 1 if self.full else 1 + t % 2

    def run(self, key: int | None, coefficient: Tensor, coupling: Tensor | None = None) -> None:
        """One pass over the inputs with the keys in slot ``key``; backward if a coupling (B, I, J) is given."""
        (B, I, F, J, D), size = self.sizes, self.blocks
        u, weight, bias, mask = map(argument, (self.u, self.weight, self.bias, self.mask))
        prior = argument(self.prior) if coupling is None else None
        c, coefficient = argument(coupling), argument(coefficient)
        tiles = {"F": F, "J": J, "STEPS": size.steps, "ROWS": size.rows, "BF": size.F, "BJ": size.J}
        if self.shared:
            folded, folded0 = at(self.folded, key), None if bias is None else at(self.folded0, key)
            fold_pass[(B, size.splits)](
                u, mask, prior, folded, folded0, c, coefficient, self.partial, self.count, B, I,
                CHUNK=min(size.F, 32), num_warps=size.warps, **tiles,
            )  # fmt: skip
        else:
            vote_pass[(-(-B // size.rows), size.splits)](
                u, weight, bias, mask, prior, at(self.keys, key), c, coefficient, self.partial, B, I,
                D=D, BD=size.D, num_warps=size.warps, **tiles,
            )  # fmt: skip

    def forward(self) -> tuple[Tensor, Tensor]:
        """All iterations: v, (B, J, D), and the last coupling, (B, I, J)."""
        B, _, _, J, D = self.sizes
        v = self.u.new_empty(B, J, D)
        for t in range(1, self.iterations + 1):
            here, before, after = self.slot(t), self.key_slot(t - 1), self.key_slot(t)
            self.run(before, self.coefficients[:, :, here])
            finish[(B, J)](
                total=at(self.total, here), before=at(self.keys, before), s=self.s[here], v=v,
                after=at(self.keys, after), folded=at(self.folded, after), folded0=at(self.folded0, after), **self.ends,
            )  # fmt: skip
        return v, self.coefficients[:, :, self.slot(self.iterations)]

    def backward(self, grad_v: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of u, weight, bias and prior, those that are needed; fills the free slots of the buffers."""
        B, I, F, J, D = self.sizes
        n, K, c = self.iterations, self.K, self.coefficients
        sums = [grad_v.new_empty(B, J, D) for _ in range(2)]  # dv of the later iterations, in turn
        first = self.u.new_empty(B, I, J) if needed[3] and self.full else None
        for t in range(n, 0 if self.full else n - 1, -1):
            here = self.slot(t)
            finish_backward[(B, J)](
                total=at(self.total, n + t - 1 if t < n else None), grad=argument(grad_v) if t == n else None,
                before=sums[t % 2] if t < n - 1 else None, s=self.s[here], after=sums[1 - t % 2],
                key=at(self.keys, here), folded=at(self.folded, here), folded0=at(self.folded0, here), **self.ends,
            )  # fmt: skip
            if self.full and (t > 1 or first is not None):
                self.run(here, c[:, :, n + t - 2] if t > 1 else first, coupling=c[:, :, here])
        keys = self.keys[:, :K]
        grads: list[Tensor | None] = [None] * 4
        if self.shared:
            if needed[0]:
                grads[0] = c.view(B, I, K * J) @ self.folded[:, :K].reshape(B, K * J, F)
            if needed[1]:
                grads[1] = torch.einsum("bkjf,bkjd->jfd", self.total, keys)
        elif needed[0] or needed[1]:
            grads[:2] = self.unshared_gradients()
        if needed[2]:
            grads[2] = torch.einsum("bkj,bkjd->bjd", c.sum(1), keys)
        if first is not None:
            grads[3] = first + c[:, :, n:].sum(2)
        return grads

    def unshared_gradients(self) -> tuple[Tensor, Tensor]:
        """Gradients of u and of unshared weights, in tiles of 16 clips."""
        (B, I, F, J, D), size = self.sizes, self.blocks
        part = min(max(power(F), 16), max(8192 // (size.J * size.D), 16), 64)  # of F, in one program
        chunks = -(-B // 16)
        steps = max(power(chunks) // max(power(2 * PROGRAMS // I), 1), 1)  # tiles in one program
        splits = -(-chunks // steps)
        grad_u, grad_weight = self.u.new_empty(B, I, F), self.u.new_empty(splits, I, J, F, D)
        unshared_gradient[(I, -(-F // part), splits)](
            *map(argument, (self.u, self.weight, self.mask, self.coefficients, self.keys)), grad_u, grad_weight, B, I,
            K=self.K, F=F, J=J, D=D, STEPS=steps, ROWS=16, BF=part, BJ=size.J, BD=size.D,
            num_warps=8 if part * size.J * size.D > 4096 else 4,
        )  # fmt: skip
        return grad_u, grad_weight.sum(0) if splits > 1 else grad_weight[0]


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, iterations: int, full: bool, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.cuda.device_of(tensors[0]):
            plan = Plan(*tensors, iterations, full)
            v, coupling = plan.forward()
        ctx.options = iterations, full
        ctx.save_for_backward(*tensors, *plan.buffers)
        ctx.mark_non_differentiable(coupling)
        return v, coupling

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_v: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, buffers = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        with torch.cuda.device_of(grad_v), torch.autocast(grad_v.device.type, enabled=False):
            grads = Plan(*tensors, *ctx.options, buffers).backward(grad_v, ctx.needs_input_grad[2:6])
        return (None, None, *grads, None)


def _refusal(u: Tensor, weight: Tensor) -> str | None:
    """Why the kernels cannot take these sizes, or None."""
    F, D, J = u.shape[-1], weight.shape[-1], weight.shape[-3]
    if min(*u.shape, *weight.shape) < 1:
        return "the kernels take no empty tensors"
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
    """True if ``routed`` can run here: Triton, a CUDA device with the shared memory, float32, sizes that fit."""
    return (
        triton is not None
        and torch.version.hip is None
        and u.is_cuda
        and weight.device == u.device
        and u.dtype == weight.dtype == torch.float32
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
    """Dynamic routing by the kernels, for ``route``, which checks the arguments.

    Arguments are float32 (float64 in Triton's interpreter only) of any strides. Returns the output capsules, (B, J, D),
    and the last coupling, (B, I, J), without a gradient. ValueError if Triton is not installed or sizes are beyond the
    kernels.
    """
    (B, I, _), (J, D) = u.shape, (weight.shape[-3], weight.shape[-1])
    refusal = "Triton is not installed" if triton is None else _refusal(u, weight)
    if refusal is None and B * I * J * (2 * num_iterations - 1) > LARGEST:
        refusal = "couplings of all iterations span more than 2**31 numbers"
    if refusal is not None:
        raise ValueError(f"{refusal}: use route, which falls back to torch")
    bias = None if bias is None else bias.expand(B, J, D)
    prior = None if prior is None else prior.expand(B, I, J)
    full = not detach_iterations and torch.is_grad_enabled()
    full = full and any(x is not None and x.requires_grad for x in (u, weight, bias, prior))
    return _Routed.apply(num_iterations, full, u, weight, bias, prior, mask)
