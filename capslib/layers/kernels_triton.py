# ruff: noqa: ANN001, ANN201 (arguments of kernels are Triton's pointers and numbers; only constants are annotated)
"""The programs of ``capslib.layers.kernels`` in Triton.

A tensor is passed as (pointer, stride, stride, ...), one that is absent as None; plain pointers are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without Triton still imports this module
    triton = None


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first launch; without Triton leave it as it is, never to be called."""
    return function if triton is None else triton.jit(function)


@kernel
def row(x, b, j):
    """Pointer to x[b, j]."""
    return x[0] + b * x[1] + j * x[2]


@kernel
def tile(rows, row_mask, columns, column_mask):
    """What stands at pointers ``rows`` plus ``columns``, zero where a mask is False."""
    return tl.load(rows[:, None] + columns[None, :], mask=row_mask[:, None] & column_mask[None, :], other=0.0)


@kernel
def capsules(x, b, B, J, D, BJ, BD):
    """x[b] of x (B, J, D) for rows b, padded with zeros to (rows, BJ, BD)."""
    b = b[:, None, None]
    j = tl.arange(0, BJ)[None, :, None]
    d = tl.arange(0, BD)[None, None, :]
    return tl.load(row(x, b, j) + d * x[3], mask=(b < B) & (j < J) & (d < D), other=0.0)


@kernel
def dot(x, y, total):
    return tl.dot(x, y, total, input_precision="tf32x3", out_dtype=total.dtype)


@kernel
def unmasked(mask, b, i, inside):
    """Where ``inside``, and the mask (B, I) is True."""
    if mask is not None:
        inside = inside & (tl.load(row(mask, b, i), mask=inside, other=0) != 0)
    return inside


@kernel
def couple(agreement, prior, coupling, coefficient, b, i, inside, valid, J, BJ):
    """Coefficients of the votes from their agreement with the keys (rows, BJ), stored and returned.

    Forward: softmax_j(prior + agreement) at valid rows. Backward, where the coupling is given, the gradient of the
    logits: coupling * (agreement - sum_j coupling * agreement).
    """
    j = tl.arange(0, BJ)
    if coupling is not None:
        c = tile(row(coupling, b, i), valid, j, j < J)
        value = c * (agreement - tl.sum(c * agreement, 1)[:, None])
    else:
        if prior is not None:
            agreement += tile(row(prior, b, i), valid, j * prior[3], j < J)
        agreement = tl.where((j < J)[None, :], agreement, float("-inf"))
        value = tl.exp(agreement - tl.max(agreement, 1)[:, None])
        value = tl.where(valid[:, None], value / tl.sum(value, 1)[:, None], 0.0)
    place = row(coefficient, b, i)[:, None] + j[None, :]
    tl.store(place, value, mask=inside[:, None] & (j < J)[None, :])
    return value


@kernel
def vote_pass(
    u, weight, bias, mask, prior, key, coupling, coefficient, partial, B, I,
    F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
    BF: tl.constexpr, BJ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One pass, unshared weights: partial[split, b, j] = sum over the split's i of coefficient * votes."""
    weight, w_i, w_j, w_f, w_d = weight
    DTYPE: tl.constexpr = u[0].dtype.element_ty
    split = tl.program_id(1)
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, BJ)[None, :, None]
    d = tl.arange(0, BD)[None, None, :]
    j_flat = tl.arange(0, BJ * BD) // BD
    d_flat = tl.arange(0, BJ * BD) % BD
    column = (j_flat < J) & (d_flat < D)
    if bias is not None:
        shift = capsules(bias, b, B, J, D, BJ, BD)
    if key is not None:
        keys = capsules(key, b, B, J, D, BJ, BD)
    total = tl.zeros((ROWS, BJ, BD), DTYPE)
    for step in range(0, STEPS):
        i = split * STEPS + step
        inside = (b < B) & (i < I)
        valid = unmasked(mask, b, i, inside)
        product = tl.zeros((ROWS, BJ * BD), DTYPE)
        for start in range(0, F, BF):
            f = start + tl.arange(0, BF)
            x = tile(row(u, b, i), valid, f * u[3], f < F)
            w = tile(weight + i * w_i + f * w_f, (f < F) & (i < I), j_flat * w_j + d_flat * w_d, column)
            product = dot(x, w, product)
        votes = tl.reshape(product, (ROWS, BJ, BD))
        if bias is not None:
            votes += shift
        agreement = tl.zeros((ROWS, BJ), DTYPE)
        if key is not None:
            agreement += tl.sum(votes * keys, 2)
        value = couple(agreement, prior, coupling, coefficient, b, i, inside, valid, J, BJ)
        total += value[:, :, None] * votes
    b = b[:, None, None]
    tl.store(partial + ((split * B + b) * J + j) * D + d, total, mask=(b < B) & (j < J) & (d < D))


@kernel
def fold_pass(
    u, mask, prior, key, key0, coupling, coefficient, partial, count, B, I,
    F: tl.constexpr, J: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BF: tl.constexpr, BJ: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """One pass, shared weight: partial[split, b, j] = sum over the split's i of coefficient * u, count = without u.

    As ``vote_pass``, with votes . key replaced by u . (W key) + bias . key, which arrive as ``key`` and ``key0``.
    """
    DTYPE: tl.constexpr = u[0].dtype.element_ty
    b = tl.program_id(0)
    split = tl.program_id(1)
    j = tl.arange(0, BJ)
    f = tl.arange(0, BF)
    if key0 is not None:
        shift = tl.load(row(key0, b, j), mask=j < J, other=0.0)
    total = tl.zeros((BJ, BF), DTYPE)
    number = tl.zeros((BJ,), DTYPE)
    for step in range(0, STEPS):
        i = (split * STEPS + step) * ROWS + tl.arange(0, ROWS)
        valid = unmasked(mask, b, i, i < I)
        agreement = tl.zeros((ROWS, BJ), DTYPE)
        if key is not None:
            for start in range(0, F, CHUNK):  # the whole of F at once leaves no registers
                g = start + tl.arange(0, CHUNK)
                x = tile(row(u, b, i), valid, g * u[3], g < F)
                agreement = dot(x, tile(row(key, b, 0) + g, g < F, j * key[2], j < J), agreement)
        if key0 is not None:
            agreement += shift[None, :]
        value = couple(agreement, prior, coupling, coefficient, b, i, i < I, valid, J, BJ)
        total = dot(tl.trans(value), tile(row(u, b, i), valid, f * u[3], f < F), total)
        number += tl.sum(value, 0)
    slab = (split * B + b) * J + j
    tl.store(partial + slab[:, None] * F + f[None, :], total, mask=(j < J)[:, None] & (f < F)[None, :])
    tl.store(count + slab, number, mask=j < J)


@kernel
def collect(partial, count, total, weight, bias, b, j, B, splits, F, J, D, SPLITS, BF, BD):
    """The sum over i of coefficient * votes at (b, j), (BD,), from the partial sums; shared: also ``total``."""
    split = tl.arange(0, SPLITS)
    d = tl.arange(0, BD)
    slab = (split * B + b) * J + j
    x = tl.zeros((BD,), partial.dtype.element_ty)
    if weight is None:
        x += tl.sum(tile(partial + slab * D, split < splits, d, d < D), 0)
    else:
        weight, w_j, w_f, w_d = weight
        for start in range(0, F, BF):
            f = start + tl.arange(0, BF)
            pooled = tl.sum(tile(partial + slab * F, split < splits, f, f < F), 0)
            tl.store(row(total, b, j) + f, pooled, mask=f < F)
            x += tl.sum(pooled[:, None] * tile(weight + j * w_j + f * w_f, f < F, d * w_d, d < D), 0)
        if bias is not None:
            number = tl.sum(tl.load(count + slab, mask=split < splits, other=0.0), 0)
            x += number * tl.load(row(bias, b, j) + d * bias[3], mask=d < D, other=0.0)
    return x


@kernel
def fold(y, weight, bias, folded, folded0, b, j, F, D, BF, BD):
    """Write W y and bias . y at (b, j): what inputs are compared with when the weight is shared."""
    d = tl.arange(0, BD)
    weight, w_j, w_f, w_d = weight
    for start in range(0, F, BF):
        f = start + tl.arange(0, BF)
        w = tile(weight + j * w_j + f * w_f, f < F, d * w_d, d < D)
        tl.store(row(folded, b, j) + f, tl.sum(w * y[None, :], 1), mask=f < F)
    if bias is not None:
        shift = tl.load(row(bias, b, j) + d * bias[3], mask=d < D, other=0.0)
        tl.store(row(folded0, b, j), tl.sum(shift * y, 0))


@kernel
def finish(
    partial, count, total, weight, bias, before, s, v, after, folded, folded0, B, splits,
    F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr,
    TINY: tl.constexpr,
):  # fmt: skip
    """End an iteration at one (b, j): add the partial sums to s, squash it to v, and add that to the keys before.

    The keys after are absent in the last iteration; the weight is, and with it all of its products, if unshared.
    """
    b = tl.program_id(0)
    j = tl.program_id(1)
    d = tl.arange(0, BD)
    x = collect(partial, count, total, weight, bias, b, j, B, splits, F, J, D, SPLITS, BF, BD)
    square = tl.sum(x * x, 0)
    out = x * (square / ((1.0 + square) * tl.sqrt(square + TINY)))
    tl.store(s + (b * J + j) * D + d, x, mask=d < D)
    if after is None:
        tl.store(v + (b * J + j) * D + d, out, mask=d < D)
    else:
        if before is not None:
            out += tl.load(row(before, b, j) + d, mask=d < D, other=0.0)
        tl.store(row(after, b, j) + d, out, mask=d < D)
        if weight is not None:
            fold(out, weight, bias, folded, folded0, b, j, F, D, BF, BD)


@kernel
def finish_backward(
    partial, count, total, weight, bias, grad, before, s, after, key, folded, folded0, B, splits,
    F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr,
    TINY: tl.constexpr,
):  # fmt: skip
    """From dV at one (b, j) to dv = dV + that of later iterations (``before``), through squash to ds, the next key.

    The first launch takes dv from outside, as ``grad``; it is not part of any dV.
    """
    b = tl.program_id(0)
    j = tl.program_id(1)
    d = tl.arange(0, BD)
    place = (b * J + j) * D + d
    if grad is not None:
        dv = tl.load(row(grad, b, j) + d * grad[3], mask=d < D, other=0.0)
    else:
        dv = collect(partial, count, total, weight, bias, b, j, B, splits, F, J, D, SPLITS, BF, BD)
        if before is not None:
            dv += tl.load(before + place, mask=d < D, other=0.0)
        tl.store(after + place, dv, mask=d < D)
    x = tl.load(s + place, mask=d < D, other=0.0)
    square = tl.sum(x * x, 0)
    scale = 1.0 / ((1.0 + square) * tl.sqrt(square + TINY))
    slope = scale * (1.0 / (1.0 + square) - 0.5 * square / (square + TINY))  # of square * scale, by square
    ds = square * scale * dv + 2.0 * slope * tl.sum(x * dv, 0) * x
    tl.store(row(key, b, j) + d, ds, mask=d < D)
    if weight is not None:
        fold(ds, weight, bias, folded, folded0, b, j, F, D, BF, BD)


@kernel
def unshared_gradient(
    u, weight, mask, coefficients, keys, grad_u, grad_weight, B, I,
    K: tl.constexpr, F: tl.constexpr, J: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
    BF: tl.constexpr, BJ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One input capsule, a part of F, some of the batch: dq in registers, du = dq W^T and dW = sum_b u dq."""
    weight, w_i, w_j, w_f, w_d = weight
    keys, key_b, key_k, key_j, key_d = keys
    DTYPE: tl.constexpr = u[0].dtype.element_ty
    i = tl.program_id(0)
    split = tl.program_id(2)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    j = tl.arange(0, BJ)
    j_flat = tl.arange(0, BJ * BD) // BD
    d_flat = tl.arange(0, BJ * BD) % BD
    column = (j_flat < J) & (d_flat < D)
    w = tile(weight + i * w_i + j_flat * w_j + d_flat * w_d, column, f * w_f, f < F)
    total = tl.zeros((BF, BJ * BD), DTYPE)
    for step in range(0, STEPS):
        b = (split * STEPS + step) * ROWS + tl.arange(0, ROWS)
        dq = tl.zeros((ROWS, BJ, BD), DTYPE)
        for k in range(0, K):
            c = tile(row(coefficients, b, i) + k * J, b < B, j, j < J)
            dq += c[:, :, None] * capsules((keys + k * key_k, key_b, key_j, key_d), b, B, J, D, BJ, BD)
        dq = tl.reshape(dq, (ROWS, BJ * BD))
        x = tl.trans(tile(row(u, b, i), unmasked(mask, b, i, b < B), f * u[3], f < F))
        du = dot(dq, w, tl.zeros((ROWS, BF), DTYPE))
        tl.store(grad_u + (b[:, None] * I + i) * F + f[None, :], du, mask=(b < B)[:, None] & (f < F)[None, :])
        total = dot(x, dq, total)
    place = (((split * I + i) * J + j_flat)[None, :] * F + f[:, None]) * D + d_flat[None, :]
    tl.store(grad_weight + place, total, mask=column[None, :] & (f < F)[:, None])
