# ruff: noqa: ANN001, ANN201 (arguments of kernels are Triton's pointers and numbers; only constants are annotated)
"""The gradient of routing by hand, for ``capslib.layers.kernels``, and what its kernels share with the forward ones.

With a the logits, c their softmax and q the votes, iteration t leaves behind

    ds^t = squash'(s^t) dv^t,       da^t = softmax'(c^t) (mask * q . ds^t),
    dV^{t-1} = sum_i da^t q,        dv^{t-1} = sum_{t' >= t} dV^{t'-1}

so the votes' gradient is a sum of products of a coefficient (B, I, K, J) and a key (B, K, J, D) that needs no votes:

    dq_ij = sum_t c^t_ij ds^t_j + da^t_ij V^{t-1}_j,   K = 2n - 1 (V^0 is zero); K = 1 if the couplings are constants.

Slot k = t - 1 holds the pair (c^t, ds^t), slot k = n + t - 2 the pair (da^t, V^{t-1}).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first launch; without Triton leave it as it is, never to be called."""
    return function if triton is None else triton.jit(function)


@kernel
def collect(
    partial, count, total, weight, bias, b, j, B, splits, total_b, w_j, w_f, w_d, bias_b, bias_j, bias_d,
    SHARED: tl.constexpr, SAVE: tl.constexpr, BIASED: tl.constexpr, F: tl.constexpr, J: tl.constexpr, D: tl.constexpr,
    SPLITS: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The sum over i of coefficient * votes at (b, j), (BD,), from the partial sums; shared: also ``total``."""
    row = tl.arange(0, SPLITS)
    d = tl.arange(0, BD)
    slab = (row * B + b) * J + j
    x = tl.zeros((BD,), ACC)
    if SHARED:
        for start in range(0, F, BF):
            f = start + tl.arange(0, BF)
            tile = tl.load(
                partial + slab[:, None] * F + f[None, :], mask=(row < splits)[:, None] & (f < F)[None, :], other=0.0
            )
            pooled = tl.sum(tile, 0)
            if SAVE:
                tl.store(total + b * total_b + j * F + f, pooled, mask=f < F)
            w = tl.load(
                weight + j * w_j + f[:, None] * w_f + d[None, :] * w_d,
                mask=(f < F)[:, None] & (d < D)[None, :],
                other=0.0,
            ).to(ACC)
            x += tl.sum(pooled[:, None] * w, 0)
        if BIASED:
            number = tl.sum(tl.load(count + slab, mask=row < splits, other=0.0), 0)
            x += number * tl.load(bias + b * bias_b + j * bias_j + d * bias_d, mask=d < D, other=0.0).to(ACC)
    else:
        tile = tl.load(
            partial + slab[:, None] * D + d[None, :], mask=(row < splits)[:, None] & (d < D)[None, :], other=0.0
        )
        x += tl.sum(tile, 0)
    return x


@kernel
def project(
    y, weight, bias, folded, folded0, b, j, w_j, w_f, w_d, bias_b, bias_j, bias_d, folded_b, folded0_b,
    BIASED: tl.constexpr, F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Write W y and bias . y at (b, j): what inputs are compared with when the weight is shared."""
    d = tl.arange(0, BD)
    for start in range(0, F, BF):
        f = start + tl.arange(0, BF)
        w = tl.load(
            weight + j * w_j + f[:, None] * w_f + d[None, :] * w_d,
            mask=(f < F)[:, None] & (d < D)[None, :],
            other=0.0,
        ).to(ACC)
        tl.store(folded + b * folded_b + j * F + f, tl.sum(w * y[None, :], 1), mask=f < F)
    if BIASED:
        shift = tl.load(bias + b * bias_b + j * bias_j + d * bias_d, mask=d < D, other=0.0).to(ACC)
        tl.store(folded0 + b * folded0_b + j, tl.sum(shift * y, 0))


@kernel
def vote_pass(
    u, weight, bias, mask, prior, key, coupling, coefficient, partial,
    B, I, u_b, u_i, u_f, w_i, w_j, w_f, w_d, bias_b, bias_j, bias_d, mask_b, mask_i, prior_b, prior_i, prior_j,
    key_b, coupling_i, coefficient_i,
    BACKWARD: tl.constexpr, KEYED: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, PRIOR: tl.constexpr,
    F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BF: tl.constexpr,
    BJ: tl.constexpr, BD: tl.constexpr, MUL: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One pass, unshared weights: partial[split, b, j] = sum over the split's i of coefficient * votes.

    Forward: coefficient = softmax_j(prior + votes . key) where the mask is True. Backward: the key is the gradient of
    s, and coefficient = coupling * (agreement - sum_j coupling * agreement), the gradient of the logits.
    """
    split = tl.program_id(1)
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, BJ)
    d = tl.arange(0, BD)
    flat = tl.arange(0, BJ * BD)
    here = b < B
    column = ((flat // BD) < J) & ((flat % BD) < D)
    pair = here[:, None] & (j < J)[None, :]
    cube = pair[:, :, None] & (d < D)[None, None, :]
    place = j[None, :, None] * D + d[None, None, :]
    if BIASED:
        offset = b[:, None, None] * bias_b + j[None, :, None] * bias_j + d[None, None, :] * bias_d
        shift = tl.load(bias + offset, mask=cube, other=0.0).to(ACC)
    if KEYED:
        keys = tl.load(key + b[:, None, None] * key_b + place, mask=cube, other=0.0)
    total = tl.zeros((ROWS, BJ, BD), ACC)
    for step in range(0, STEPS):
        i = split * STEPS + step
        valid = here & (i < I)
        if MASKED:
            valid = valid & (tl.load(mask + b * mask_b + i * mask_i, mask=valid, other=0) != 0)
        product = tl.zeros((ROWS, BJ * BD), ACC)
        for start in range(0, F, BF):
            f = start + tl.arange(0, BF)
            x = tl.load(
                u + b[:, None] * u_b + i * u_i + f[None, :] * u_f,
                mask=valid[:, None] & (f < F)[None, :],
                other=0.0,
            ).to(MUL)
            w = tl.load(
                weight + i * w_i + (flat // BD)[None, :] * w_j + f[:, None] * w_f + (flat % BD)[None, :] * w_d,
                mask=(f < F)[:, None] & column[None, :] & (i < I),
                other=0.0,
            ).to(MUL)
            product = tl.dot(x, w, product, input_precision=PRECISION, out_dtype=ACC)
        votes = tl.reshape(product, (ROWS, BJ, BD))
        if BIASED:
            votes += shift
        if BACKWARD:
            c = tl.load(
                coupling + (b[:, None] * I + i) * coupling_i + j[None, :],
                mask=pair & valid[:, None],
                other=0.0,
            )
            agreement = tl.sum(votes * keys, 2)
            value = c * (agreement - tl.sum(c * agreement, 1)[:, None])
        else:
            logits = tl.zeros((ROWS, BJ), ACC)
            if PRIOR:
                logits += tl.load(
                    prior + b[:, None] * prior_b + i * prior_i + j[None, :] * prior_j,
                    mask=pair & valid[:, None],
                    other=0.0,
                ).to(ACC)
            if KEYED:
                logits += tl.sum(votes * keys, 2)
            logits = tl.where((j < J)[None, :], logits, float("-inf"))
            value = tl.exp(logits - tl.max(logits, 1)[:, None])
            value = tl.where(valid[:, None], value / tl.sum(value, 1)[:, None], 0.0)
        tl.store(coefficient + (b[:, None] * I + i) * coefficient_i + j[None, :], value, mask=pair & (i < I))
        total += value[:, :, None] * votes
    tl.store(partial + (split * B + b)[:, None, None] * (J * D) + place, total, mask=cube)


@kernel
def fold_pass(
    u, mask, prior, key, key0, coupling, coefficient, partial, count,
    B, I, u_b, u_i, u_f, mask_b, mask_i, prior_b, prior_i, prior_j, key_b, key0_b, coupling_i, coefficient_i,
    BACKWARD: tl.constexpr, KEYED: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, PRIOR: tl.constexpr,
    F: tl.constexpr, J: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BF: tl.constexpr, BJ: tl.constexpr,
    CHUNK: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One pass, shared weight: partial[split, b, j] = sum over the split's i of coefficient * u, count = without u.

    As ``vote_pass``, with votes . key replaced by u . (W key) + bias . key, which arrive as ``key`` and ``key0``.
    """
    b = tl.program_id(0)
    split = tl.program_id(1)
    j = tl.arange(0, BJ)
    f = tl.arange(0, BF)
    board = (j < J)[:, None] & (f < F)[None, :]
    if KEYED and BIASED:
        shift = tl.load(key0 + b * key0_b + j, mask=j < J, other=0.0)
    total = tl.zeros((BJ, BF), ACC)
    number = tl.zeros((BJ,), ACC)
    for step in range(0, STEPS):
        i = (split * STEPS + step) * ROWS + tl.arange(0, ROWS)
        valid = i < I
        if MASKED:
            valid = valid & (tl.load(mask + b * mask_b + i * mask_i, mask=valid, other=0) != 0)
        pair = valid[:, None] & (j < J)[None, :]
        agreement = tl.zeros((ROWS, BJ), ACC)
        if KEYED:
            for start in range(0, F, CHUNK):  # the whole of F at once leaves no registers
                g = start + tl.arange(0, CHUNK)
                y = tl.load(
                    u + b * u_b + i[:, None] * u_i + g[None, :] * u_f,
                    mask=valid[:, None] & (g < F)[None, :],
                    other=0.0,
                ).to(ACC)
                keys = tl.load(
                    key + b * key_b + j[None, :] * F + g[:, None],
                    mask=(g < F)[:, None] & (j < J)[None, :],
                    other=0.0,
                )
                agreement = tl.dot(y, keys, agreement, input_precision=PRECISION, out_dtype=ACC)
        if KEYED and BIASED:
            agreement += shift[None, :]
        if BACKWARD:
            c = tl.load(coupling + (b * I + i)[:, None] * coupling_i + j[None, :], mask=pair, other=0.0)
            value = c * (agreement - tl.sum(c * agreement, 1)[:, None])
        else:
            if PRIOR:
                agreement += tl.load(
                    prior + b * prior_b + i[:, None] * prior_i + j[None, :] * prior_j, mask=pair, other=0.0
                ).to(ACC)
            agreement = tl.where((j < J)[None, :], agreement, float("-inf"))
            value = tl.exp(agreement - tl.max(agreement, 1)[:, None])
            value = tl.where(valid[:, None], value / tl.sum(value, 1)[:, None], 0.0)
        tl.store(
            coefficient + (b * I + i)[:, None] * coefficient_i + j[None, :],
            value,
            mask=(i < I)[:, None] & (j < J)[None, :],
        )
        x = tl.load(
            u + b * u_b + i[:, None] * u_i + f[None, :] * u_f,
            mask=valid[:, None] & (f < F)[None, :],
            other=0.0,
        ).to(ACC)
        total = tl.dot(tl.trans(value), x, total, input_precision=PRECISION, out_dtype=ACC)
        number += tl.sum(value, 0)
    slab = (split * B + b) * J + j
    tl.store(partial + slab[:, None] * F + f[None, :], total, mask=board)
    tl.store(count + slab, number, mask=j < J)


@kernel
def finish_backward(
    partial, count, total, weight, bias, grad, before, after, s, key, folded, folded0,
    B, splits, total_b, w_j, w_f, w_d, bias_b, bias_j, bias_d, grad_b, grad_j, grad_d, key_b, folded_b, folded0_b,
    FIRST: tl.constexpr, SECOND: tl.constexpr, SHARED: tl.constexpr, BIASED: tl.constexpr, F: tl.constexpr,
    J: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
    TINY: tl.constexpr,
):  # fmt: skip
    """From dV at one (b, j) to dv = dV + that of later iterations (``before``), through squash to ds, the next key.

    The first launch takes dv from outside; it is not part of any dV.
    """
    b = tl.program_id(0)
    j = tl.program_id(1)
    d = tl.arange(0, BD)
    place = (b * J + j) * D + d
    if FIRST:
        dv = tl.load(grad + b * grad_b + j * grad_j + d * grad_d, mask=d < D, other=0.0).to(ACC)
    else:
        dv = collect(
            partial, count, total, weight, bias, b, j, B, splits, total_b, w_j, w_f, w_d, bias_b, bias_j, bias_d,
            SHARED, True, BIASED, F, J, D, SPLITS, BF, BD, ACC,
        )  # fmt: skip
        if not SECOND:
            dv += tl.load(before + place, mask=d < D, other=0.0)
        tl.store(after + place, dv, mask=d < D)
    x = tl.load(s + place, mask=d < D, other=0.0)
    square = tl.sum(x * x, 0)
    scale = 1.0 / ((1.0 + square) * tl.sqrt(square + TINY))
    slope = scale * (1.0 / (1.0 + square) - 0.5 * square / (square + TINY))  # of square * scale, by square
    ds = square * scale * dv + 2.0 * slope * tl.sum(x * dv, 0) * x
    tl.store(key + b * key_b + j * D + d, ds, mask=d < D)
    if SHARED:
        project(
            ds, weight, bias, folded, folded0, b, j, w_j, w_f, w_d, bias_b, bias_j, bias_d, folded_b, folded0_b,
            BIASED, F, J, D, BF, BD, ACC,
        )  # fmt: skip


@kernel
def unshared_gradient(
    u, weight, mask, coefficients, keys, grad_u, grad_weight,
    B, I, u_b, u_i, u_f, w_i, w_j, w_f, w_d, mask_b, mask_i, coefficient_b, coefficient_i, key_b,
    MASKED: tl.constexpr, K: tl.constexpr, F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr, BF: tl.constexpr, BJ: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One input capsule, a part of F, some of the batch: dq in registers, du = dq W^T and dW = sum_b u dq."""
    i = tl.program_id(0)
    split = tl.program_id(2)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    j = tl.arange(0, BJ)
    d = tl.arange(0, BD)
    flat = tl.arange(0, BJ * BD)
    j_flat = flat // BD
    d_flat = flat % BD
    column = (j_flat < J) & (d_flat < D)
    w = tl.load(
        weight + i * w_i + j_flat[:, None] * w_j + f[None, :] * w_f + d_flat[:, None] * w_d,
        mask=column[:, None] & (f < F)[None, :],
        other=0.0,
    ).to(ACC)
    total = tl.zeros((BF, BJ * BD), ACC)
    for step in range(0, STEPS):
        b = (split * STEPS + step) * ROWS + tl.arange(0, ROWS)
        pair = (b < B)[:, None] & (j < J)[None, :]
        cube = pair[:, :, None] & (d < D)[None, None, :]
        dq = tl.zeros((ROWS, BJ, BD), ACC)
        for k in range(0, K):
            c = tl.load(
                coefficients + b[:, None] * coefficient_b + i * coefficient_i + k * J + j[None, :], mask=pair, other=0.0
            )
            key = tl.load(
                keys + b[:, None, None] * key_b + (k * J + j[None, :, None]) * D + d[None, None, :],
                mask=cube,
                other=0.0,
            )
            dq += c[:, :, None] * key
        dq = tl.reshape(dq, (ROWS, BJ * BD))
        valid = b < B
        if MASKED:
            valid = valid & (tl.load(mask + b * mask_b + i * mask_i, mask=valid, other=0) != 0)
        x = tl.load(
            u + b[None, :] * u_b + i * u_i + f[:, None] * u_f, mask=(f < F)[:, None] & valid[None, :], other=0.0
        ).to(ACC)
        du = tl.dot(dq, w, input_precision=PRECISION, out_dtype=ACC)
        tl.store(grad_u + (b[:, None] * I + i) * F + f[None, :], du, mask=(b < B)[:, None] & (f < F)[None, :])
        total = tl.dot(x, dq, total, input_precision=PRECISION, out_dtype=ACC)
    I_all = tl.num_programs(0)
    place = ((split * I_all + i) * J + j_flat[None, :]) * F + f[:, None]
    tl.store(grad_weight + place * D + d_flat[None, :], total, mask=column[None, :] & (f < F)[:, None])


def gradients(plan: Any, grad_v: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of u, weight, bias and prior.

    Args:
        plan: a ``kernels.Plan`` with the buffers that the forward filled; their free slots are filled here.
        grad_v: of the output, (B, J, D).
        needed: which of the four are wanted.
    """
    B, I, F, J, D = plan.sizes
    n, K, size = plan.iterations, plan.K, plan.blocks
    spare, c = plan.keys, plan.coefficients
    bias = spare if plan.bias is None else plan.bias
    sums = [torch.empty(B, J, D, **plan.wide) for _ in range(2)]  # dv of the later iterations, in turn
    first = torch.empty(B, I, J, **plan.wide) if needed[3] and plan.full else None
    for t in range(n, 0 if plan.full else n - 1, -1):
        here = plan.slot(t)
        total = plan.total[:, n + t - 1] if plan.shared and t < n else spare
        key = plan.keys[:, here]
        folded, folded0 = (plan.folded[:, here], plan.folded0[:, here]) if plan.shared else (spare, spare)
        finish_backward[(B, J)](
            plan.partial, plan.count, total, plan.weight, bias, grad_v, sums[t % 2], sums[1 - t % 2], plan.s[here], key,
            folded, folded0, B, size.splits, total.stride(0), *plan.weight_strides[-3:], *plan.bias_strides,
            *grad_v.stride(), key.stride(0), folded.stride(0), folded0.stride(0), FIRST=t == n, SECOND=t == n - 1,
            **plan.ends(),
        )  # fmt: skip
        if plan.full and t > 1:
            plan.run(here, c[:, :, n + t - 2], coupling=c[:, :, here])
        elif first is not None:
            plan.run(here, first, coupling=c[:, :, here])
    keys = plan.keys[:, :K]
    grads: list[Tensor | None] = [None] * 4
    if plan.shared:
        if needed[0]:
            grads[0] = (c.view(B, I, K * J) @ plan.folded[:, :K].reshape(B, K * J, F)).to(plan.u.dtype)
        if needed[1]:
            grads[1] = torch.einsum("bkjf,bkjd->jfd", plan.total, keys).to(plan.weight.dtype)
    elif needed[0] or needed[1]:
        grads[:2] = _unshared(plan)
    if needed[2]:
        per_clip = torch.einsum("bkj,bkjd->bjd", c.sum(1), keys)
        grads[2] = (per_clip if plan.bias.dim() == 3 else per_clip.sum(0)).to(plan.bias.dtype)
    if first is not None:
        grads[3] = (first + c[:, :, n:].sum(2)).sum_to_size(plan.prior.shape).to(plan.prior.dtype)
    return grads


def _unshared(plan: Any) -> tuple[Tensor, Tensor]:
    """Gradients of u and of unshared weights."""
    B, I, F, J, D = plan.sizes
    u, weight, size, c = plan.u, plan.weight, plan.blocks, plan.coefficients
    splits = size.gradient_splits
    grad_u = torch.empty(B, I, F, dtype=u.dtype, device=u.device)
    kind = plan.wide["dtype"] if splits > 1 else weight.dtype
    grad_weight = torch.empty(splits, I, J, F, D, dtype=kind, device=u.device)
    part = size.gradient_F
    unshared_gradient[(I, -(-F // part), splits)](
        u, weight, c if plan.mask is None else plan.mask, c, plan.keys, grad_u, grad_weight, B, I, *u.stride(),
        *plan.weight_strides, *plan.mask_strides, c.stride(0), c.stride(1), plan.keys.stride(0),
        MASKED=plan.mask is not None, K=plan.K, F=F, J=J, D=D, STEPS=size.gradient_steps, ROWS=16, BF=part, BJ=size.J,
        BD=size.D, ACC=plan.ACC, PRECISION=plan.PRECISION, num_warps=8 if part * size.J * size.D > 4096 else 4,
    )  # fmt: skip
    return grad_u, (grad_weight.sum(0) if splits > 1 else grad_weight[0]).to(weight.dtype)
