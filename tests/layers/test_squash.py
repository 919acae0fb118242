"""Squash, by its equation and by what must hold for any vector."""

from __future__ import annotations

import pytest
import torch
from draws import PROPERTY, SIZES, draw
from hypothesis import given
from hypothesis import strategies as st

from capslib.layers import squash
from capslib.layers.self_attention import exponential_squash


@PROPERTY
@given(size=SIZES, seed=st.integers(0, 999), exponent=st.integers(-3, 3))
def test_squash_shortens_and_leaves_the_direction(size, seed, exponent):
    s = draw(4, size, seed=seed, scale=10.0**exponent)
    v = squash(s)
    before, after = s.norm(dim=-1), v.norm(dim=-1)
    assert (after < 1).all() and (after < before).all()
    torch.testing.assert_close(after, before**2 / (1 + before**2))  # Sabour et al., equation 1
    torch.testing.assert_close(v / after[:, None], s / before[:, None])


def test_squash_is_monotone_in_length():
    lengths = torch.logspace(-8, 4, 200, dtype=torch.float64)
    assert (squash(lengths[:, None] * torch.tensor([[0.6, 0.8]]).double()).norm(dim=-1).diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_squash_of_zero_is_zero_with_a_finite_gradient(dtype):
    s = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    v = squash(s)
    v.sum().backward()
    assert v.dtype == dtype and (v == 0).all() and s.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_squash_of_half_precision_neither_overflows_nor_vanishes(dtype):
    s = torch.tensor([[300.0, 400.0], [0.003, 0.004]], dtype=dtype)  # squares leave the range of float16
    torch.testing.assert_close(squash(s).double(), squash(s.double()), rtol=1e-2, atol=1e-8)


def test_squash_along_another_axis():
    s = draw(3, 4, 5)
    torch.testing.assert_close(squash(s, dim=1), squash(s.movedim(1, -1)).movedim(-1, 1))


def test_squash_has_the_right_gradient():
    assert torch.autograd.gradcheck(squash, draw(3, 4).requires_grad_())
    assert torch.autograd.gradcheck(squash, draw(3, 4, scale=1e-3).requires_grad_())


def test_exponential_squash_is_the_papers():
    s = draw(50, 4, scale=3.0)
    v, length = exponential_squash(s), s.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(v, (1 - 1 / length.exp()) * s / length)
    assert torch.autograd.gradcheck(exponential_squash, s[:4].clone().requires_grad_())
    zero = torch.zeros(2, 3, requires_grad=True)
    exponential_squash(zero).sum().backward()
    torch.testing.assert_close(zero.grad, torch.ones(2, 3))  # the identity, near zero
