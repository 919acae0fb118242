"""Attention pooling, top-down attention and means over valid steps, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from draws import PROPERTY, SIZES, draw, lengths_mask
from hypothesis import given
from hypothesis import strategies as st

from capslib.layers import AttentionPooling, TopDownAttention, masked_mean


@PROPERTY
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), features=SIZES, seed=st.integers(0, 99))
def test_attention_pooling_equals_a_loop(lengths, features, seed):
    torch.manual_seed(seed)
    layer = AttentionPooling(features).double()
    x, mask = draw(len(lengths), 6, features, seed=seed), lengths_mask(lengths, 6)
    pooled, weights = layer(x, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(lengths)).double())
    assert (weights[~mask] == 0).all()
    vector = layer.score.weight.detach().numpy()[0]
    for row, length in enumerate(lengths):
        steps = x[row, :length].numpy()
        shares = np.exp([step @ vector for step in steps])
        expected = sum(share * step for share, step in zip(shares / shares.sum(), steps, strict=True))
        np.testing.assert_allclose(pooled[row].detach().numpy(), expected, atol=1e-10)


def test_attention_pooling_of_a_clip_without_steps_is_finite():
    layer, x = AttentionPooling(3), draw(2, 4, 3, dtype=torch.float32).requires_grad_()
    pooled, weights = layer(x, lengths_mask([0, 4], 4))
    pooled.sum().backward()
    assert (pooled[0] == 0).all() and (weights[0] == 0).all()
    assert x.grad.isfinite().all() and layer.score.weight.grad.isfinite().all()


def test_masked_mean_is_the_mean_of_valid_steps():
    x, lengths = draw(4, 6, 3), [6, 1, 4, 0]
    means = masked_mean(x, lengths_mask(lengths, 6))
    for row, length in enumerate(lengths[:3]):
        torch.testing.assert_close(means[row], x[row, :length].mean(0))
    assert (means[3] == 0).all()


@PROPERTY
@given(T=st.integers(1, 5), F=st.integers(1, 4), K=st.integers(1, 4), normalized=st.booleans(), seed=st.integers(0, 99))
def test_top_down_attention_equals_loops(T, F, K, normalized, seed):
    layer, x = TopDownAttention(F, K, normalized=normalized).double(), draw(2, T, F, seed=seed)
    lengths = [T, max(1, T - 2)]
    scores = layer(x, lengths_mask(lengths, T)).detach().numpy()
    b, a = layer.bottom_up.weight[0].detach().numpy(), layer.top_down.weight.detach().numpy()
    for row, n in enumerate(lengths):
        steps = x[row, :n].numpy()
        bottom = [step @ b for step in steps]
        shares = [np.exp(m) / sum(np.exp(bottom)) for m in bottom] if normalized else [m / n for m in bottom]
        expected = [sum(share * (step @ a[k]) for share, step in zip(shares, steps, strict=True)) for k in range(K)]
        np.testing.assert_allclose(scores[row], expected, atol=1e-12)


@pytest.mark.parametrize("normalized", [False, True])
def test_top_down_attention_ignores_padding_and_passes_gradcheck(normalized):
    layer, x = TopDownAttention(3, 2, normalized=normalized).double(), draw(2, 4, 3)
    mask = torch.tensor([[True] * 4, [False] * 4])
    assert torch.autograd.gradcheck(lambda x: layer(x, mask), x.clone().requires_grad_())
    x[1] = torch.nan
    assert (layer(x, mask)[1] == 0).all()
