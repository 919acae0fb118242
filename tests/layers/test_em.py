"""EM routing against Hinton et al. 2018, procedure 1, written as loops, and what is particular to it."""

from __future__ import annotations

import math

import numpy as np
import torch
from draws import PROPERTY, assert_equals_loops, build, calls, draw, inputs, normalized, rule_for
from hypothesis import given
from hypothesis import strategies as st

from capslib.layers import EMRouting


def em_in_loops(rule, votes, valid, prior) -> tuple[np.ndarray, np.ndarray]:
    """Procedure 1; the amount of evidence in units of an equal share."""
    I, J, D = votes.shape
    beta_u, beta_a = (b.detach().numpy() for b in (rule.beta_u, rule.beta_a))
    coupling, v = np.zeros((I, J)), np.zeros((J, D))
    logs = {i: prior[i] - np.logaddexp.reduce(prior[i]) for i in valid}
    for t in range(rule.num_iterations):
        mean, variance, activation = np.zeros((J, D)), np.full((J, D), rule.variance_floor), np.zeros(J)
        for j in range(J):
            among = normalized([logs[i][j] for i in valid]) if valid else []  # R_ij / sum_i R_ij
            shares = math.fsum(math.exp(logs[i][j]) for i in valid)
            for h in range(D):
                weighted = list(zip(among, (votes[i, j, h] for i in valid), strict=True))
                mean[j, h] = math.fsum(w * vote for w, vote in weighted)
                variance[j, h] += math.fsum(w * (vote - mean[j, h]) ** 2 for w, vote in weighted)
            cost = sum((beta_u[j] + math.log(math.sqrt(variance[j, h]))) * shares for h in range(D))
            temperature = rule.inverse_temperature * (t + 1) / rule.num_iterations
            x = temperature * (beta_a[j] - cost * J / (D * max(1, len(valid))))
            activation[j] = 1 / (1 + math.exp(-x))
        for i in valid:
            coupling[i] = np.exp(logs[i])
            for j in range(J):
                exponents = (votes[i, j] - mean[j]) ** 2 / (2 * variance[j])
                normal = -sum(exponents[h] + math.log(math.sqrt(2 * math.pi * variance[j, h])) for h in range(D))
                logs[i][j] = prior[i, j] + math.log(activation[j]) + normal
            logs[i] = logs[i] - np.logaddexp.reduce(logs[i])
    for j in range(J):
        v[j] = activation[j] * mean[j] / math.sqrt(mean[j] @ mean[j] + 1e-12)
    return v, coupling


@PROPERTY
@given(call=calls(), iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_em_equals_loops(call, iterations, seed):
    assert_equals_loops(rule_for("em", call, iterations, seed), em_in_loops, **call)


def test_em_prefers_tight_clusters():
    """Every input votes alike for the first output and differently for the second."""
    weight = torch.stack([draw(6, 2, 3, seed=1), draw(6, 2, 3, seed=2)], dim=1)
    u = draw(1, 6, 2, seed=3)
    target = torch.tensor([1.0, -1.0, 0.5]).double()
    outer = u[0, :, :, None] * target / u[0].square().sum(-1)[:, None, None]
    weight[:, 0] = outer  # u_i @ outer_i is the target for each i
    v, coupling = EMRouting(2).double()(u, weight, return_coupling=True)
    lengths = v.norm(dim=-1)[0]
    assert lengths[0] > 0.9 > lengths[1]
    assert (coupling[0, :, 0] > 0.99).all()
    torch.testing.assert_close(v[0, 0] / lengths[0], target / target.norm())


def test_em_does_not_count_how_long_a_clip_is():
    u, weight = inputs()
    rule = build("em", 3, 5)
    torch.testing.assert_close(rule(u.repeat(1, 50, 1), weight), rule(u, weight))


def test_em_with_shared_weights_scores_how_a_clip_varies_and_not_where_it_lies():
    u, weight = inputs()
    unshared = weight + draw(6, *weight.shape, seed=9)
    rule = build("em", 3, 5)
    moved = u + draw(3, 1, 4, seed=8)
    torch.testing.assert_close(rule(moved, weight).norm(dim=-1), rule(u, weight).norm(dim=-1))
    assert (rule(moved, unshared).norm(dim=-1) - rule(u, unshared).norm(dim=-1)).abs().max() > 0.01


def test_em_leaves_outputs_alive_that_get_hardly_any_share():
    u, weight = inputs(dtype=torch.float32)
    prior = torch.tensor([0.0, -300.0, 0.0])  # shares of exp(-300) are zero in float32
    u.requires_grad_()
    v, coupling = EMRouting(3)(u, weight, prior=prior, return_coupling=True)
    v.norm(dim=-1).sum().backward()
    assert (coupling[..., 1] == 0).all() and v.isfinite().all() and u.grad.isfinite().all()
    torch.testing.assert_close(v[:, 1].norm(dim=-1), torch.full((3,), 0.5))  # no evidence, so sigmoid(beta_a)
