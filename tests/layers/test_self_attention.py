"""Self-attention routing against Mazzia et al. 2021 written as loops, and its log prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from draws import PROPERTY, assert_equals_loops, calls, draw, inputs, normalized, rule_for
from hypothesis import given
from hypothesis import strategies as st

from capslib.layers import SelfAttentionRouting
from capslib.layers.self_attention import exponential_squash


def self_attention_in_loops(rule, votes, valid, prior) -> tuple[np.ndarray, np.ndarray]:
    """With the I x I attention matrices that the module avoids."""
    I, J, D = votes.shape
    log_prior = np.broadcast_to(rule.log_prior.detach().numpy(), (I, J))
    coupling, v = np.zeros((I, J)), np.zeros((J, D))
    A = {(i, k, j): votes[i, j] @ votes[k, j] / math.sqrt(D) for i in valid for k in valid for j in range(J)}
    for i in valid:
        coupling[i] = normalized([prior[i, j] + math.fsum(A[i, k, j] for k in valid) for j in range(J)])
    for j in range(J):
        s = sum(((coupling[i, j] + log_prior[i, j]) * votes[i, j] for i in valid), np.zeros(D))
        length = np.linalg.norm(s)
        v[j] = (1 - 1 / math.exp(length)) * s / length if length else 0
    return v, coupling


@PROPERTY
@given(call=calls(), seed=st.integers(0, 99))
def test_self_attention_equals_loops(call, seed):
    assert_equals_loops(rule_for("self_attention", call, seed=seed), self_attention_in_loops, **call)


def test_self_attention_adds_its_log_prior_after_the_softmax():
    u, weight = inputs()
    rule = SelfAttentionRouting(3, 5).double()
    before, coupling = rule(u, weight, return_coupling=True)
    with torch.no_grad():
        rule.log_prior[1] = 0.5
    after, same = rule(u, weight, return_coupling=True)
    torch.testing.assert_close(same, coupling)
    torch.testing.assert_close(after[:, ::2], before[:, ::2])
    s = torch.einsum("bi,bif,fd->bd", coupling[..., 1] + 0.5, u, weight[1])
    torch.testing.assert_close(after[:, 1], exponential_squash(s))


def test_self_attention_takes_a_log_prior_for_every_input():
    u, weight = inputs(unshared=True)
    rule = SelfAttentionRouting(3, 5, in_capsules=6).double()
    assert rule.log_prior.shape == (6, 3)
    with torch.no_grad():
        rule.log_prior += draw(6, 3)
    assert_equals_loops(rule, self_attention_in_loops, u, weight)
    with pytest.raises(ValueError, match="in_capsules=5: the routing rule was built for 6"):
        rule(u[:, :5], weight[:5])
