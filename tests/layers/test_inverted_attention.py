"""Inverted dot-product attention against Tsai et al. 2020, procedure 1, written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from draws import PROPERTY, assert_equals_loops, build, calls, inputs, lengths_mask, normalized, rule_for
from hypothesis import given
from hypothesis import strategies as st

from capslib.layers import route


def inverted_attention_in_loops(rule, votes, valid, prior) -> tuple[np.ndarray, np.ndarray]:
    """Procedure 1; Sabour's squash on the last sum."""
    I, J, D = votes.shape
    gain, shift = rule.norm.weight.detach().numpy(), rule.norm.bias.detach().numpy()
    coupling, v, p = np.zeros((I, J)), np.zeros((J, D)), np.zeros((J, D))
    for _ in range(rule.num_iterations):
        for i in valid:
            coupling[i] = normalized([prior[i, j] + p[j] @ votes[i, j] for j in range(J)])
        for j in range(J):
            s = sum((coupling[i, j] * votes[i, j] for i in valid), np.zeros(D))
            p[j] = gain * (s - s.mean()) / math.sqrt(s.var() + rule.norm.eps) + shift
            v[j] = np.linalg.norm(s) / (1 + s @ s) * s
    return v, coupling


@PROPERTY
@given(call=calls(), iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_inverted_attention_equals_loops(call, iterations, seed):
    rule = rule_for("inverted_attention", call, iterations, seed)
    assert_equals_loops(rule, inverted_attention_in_loops, **call)


@pytest.mark.parametrize("unshared", [False, True])
def test_inverted_attention_with_one_iteration_is_uniform_routing(unshared):
    u, weight = inputs(unshared=unshared)
    mask = lengths_mask([6, 2, 4], 6)
    v, coupling = build("inverted_attention", 3, 5, 1)(u, weight, mask=mask, return_coupling=True)
    torch.testing.assert_close(v, route(u, weight, 1, mask=mask))
    torch.testing.assert_close(coupling, mask[..., None] / torch.full((3,), 3.0).double())


def test_inverted_attention_starts_each_iteration_from_poses_alone():
    """Not accumulated as in dynamic routing: the last coupling follows from the pose before it."""
    u, weight = inputs()
    rules = [build("inverted_attention", 3, 5, iterations) for iterations in (2, 3)]
    (_, earlier), (_, last) = (rule(u, weight, return_coupling=True) for rule in rules)
    votes = torch.einsum("bif,jfd->bijd", u, weight)
    pose = rules[1].norm(torch.einsum("bij,bijd->bjd", earlier, votes))
    torch.testing.assert_close(last, torch.einsum("bijd,bjd->bij", votes, pose).softmax(-1))
