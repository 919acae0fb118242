"""Dynamic routing against procedure 1 of Sabour et al. 2017 as loops, and what it is for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from draws import PROPERTY, assert_equals_loops, calls, draw, lengths_mask, normalized, rule_for
from hypothesis import given
from hypothesis import strategies as st

from capslib.layers import DynamicRouting, route, squash


def routed_in_loops(rule, votes, valid, prior) -> tuple[np.ndarray, np.ndarray]:
    """Procedure 1, capsule by capsule."""
    I, J, D = votes.shape
    v, coupling, logits = np.zeros((J, D)), np.zeros((I, J)), np.array(prior)
    for _ in range(rule.num_iterations):
        for i in valid:  # each input shares itself out among the outputs
            coupling[i] = normalized(logits[i])
        for j in range(J):
            s = sum((coupling[i, j] * votes[i, j] for i in valid), np.zeros(D))
            length = np.sqrt(s @ s)
            v[j] = length / (1 + length**2) * s
        for i in valid:
            for j in range(J):
                logits[i, j] += votes[i, j] @ v[j]
    return v, coupling


def route_with_votes(u, weight, num_iterations, mask=None, bias=None, prior=None) -> torch.Tensor:
    """The same with every vote written out, for autograd."""
    votes = torch.einsum("bif,jfd->bijd" if weight.dim() == 3 else "bif,ijfd->bijd", u, weight)
    if bias is not None:
        votes = votes + (bias if bias.dim() == 2 else bias[:, None])
    logits = torch.zeros(votes.shape[:-1], dtype=u.dtype) + (0 if prior is None else prior)
    for _ in range(num_iterations):
        coupling = torch.exp(logits) / torch.exp(logits).sum(2, keepdim=True)
        if mask is not None:
            coupling = torch.where(mask[..., None], coupling, 0.0)
        s = torch.einsum("bij,bijd->bjd", coupling, votes)
        length = s.norm(dim=-1, keepdim=True)
        v = length / (1 + length**2) * s
        logits = logits + torch.einsum("bijd,bjd->bij", votes, v)
    return v


@pytest.mark.parametrize("name", ["dynamic", "dynamic_detached"])
@PROPERTY
@given(call=calls(), iterations=st.integers(1, 5))
def test_dynamic_routing_equals_loops(name, call, iterations):
    assert_equals_loops(rule_for(name, call, iterations), routed_in_loops, **call)


@PROPERTY
@given(call=calls(), iterations=st.integers(1, 5))
def test_gradients_flow_through_every_iteration(call, iterations):
    leaves = {n: a.requires_grad_() for n, a in call.items() if torch.is_tensor(a) and a.is_floating_point()}
    if call["mask"] is not None and not call["mask"].any(1).all():
        call["mask"][:, 0] = True  # the plain version has no gradient at the zero vector
    probe = draw(len(call["u"]), *call["weight"].shape[-3::2], seed=5)
    gradients = [
        torch.autograd.grad(
            (rule(num_iterations=iterations, **call) * probe).sum(), list(leaves.values()), allow_unused=True
        )
        for rule in (route, route_with_votes)
    ]
    for name, ours, plain in zip(leaves, *gradients, strict=True):
        zero = torch.zeros_like(leaves[name])
        torch.testing.assert_close(zero if ours is None else ours, zero if plain is None else plain, msg=name)


def test_detached_iterations_have_another_gradient_and_the_same_capsules():
    u, weight = draw(2, 5, 3).requires_grad_(), draw(4, 3, 2, seed=1)
    full, detached = (DynamicRouting(3, detach_iterations=d)(u, weight) for d in (False, True))
    assert torch.equal(full, detached)
    slopes = [torch.autograd.grad(v.sum(), u)[0] for v in (full, detached)]
    assert not torch.allclose(*slopes, rtol=0.01)
    assert "detach_iterations=True" in repr(DynamicRouting(3, detach_iterations=True))


def test_inputs_are_summed_and_not_averaged():
    """One input decides nothing about another's shares: doubling the inputs doubles what is summed up."""
    u, weight = draw(3, 7, 4), draw(5, 4, 6, seed=1)
    once, twice = (route(u.repeat(1, k, 1), weight, 1).norm(dim=-1) for k in (1, 2))
    torch.testing.assert_close(twice / (1 - twice), 4 * once / (1 - once))  # length / (1 - length) is |s| squared


@pytest.mark.parametrize("unshared", [(), (6,)], ids=["shared", "unshared"])
def test_one_iteration_couples_uniformly(unshared):
    u, weight = draw(2, 6, 3), draw(*unshared, 4, 3, 5, seed=1)
    v, coupling = route(u, weight, 1, return_coupling=True)
    torch.testing.assert_close(coupling, torch.full((2, 6, 4), 0.25).double())
    torch.testing.assert_close(v, route(u, weight, 1, mask=torch.ones(2, 6, dtype=torch.bool)))


def test_more_iterations_agree_more():
    """What routing is for: an input that agrees with the majority about one output couples to that output."""
    weight = torch.stack([torch.eye(3), draw(3, 3).float()]).double()
    u = torch.tensor([1.0, 0.0, 0.0]).double().repeat(1, 8, 1)
    shares = [route(u, weight * 0.5, n, return_coupling=True)[1][0, :, 0].mean() for n in range(1, 6)]
    lengths = route(u, weight * 0.5, 1).norm(dim=-1)[0]
    grows = lengths[0] > lengths[1]  # routing strengthens whichever output was longer
    assert all((b > a) == grows for a, b in itertools.pairwise(shares))


def test_prior_is_where_coupling_starts():
    u, weight, prior = draw(2, 6, 3), draw(4, 3, 5, seed=1), draw(4, seed=2)
    _, coupling = route(u, weight, 1, prior=prior, return_coupling=True)
    torch.testing.assert_close(coupling, prior.softmax(0).expand(2, 6, 4))


@pytest.mark.parametrize("unshared", [(), (1,)], ids=["shared", "unshared"])
def test_one_capsule_in_and_one_out(unshared):
    u, weight = draw(2, 1, 3), draw(*unshared, 1, 3, 4, seed=1)
    v, coupling = route(u, weight, 3, return_coupling=True)
    assert (coupling == 1).all()  # there is nowhere else to go
    torch.testing.assert_close(v, squash(u @ weight.reshape(3, 4)))


@pytest.mark.parametrize("unshared", [(), (6,)], ids=["shared", "unshared"])
def test_inputs_need_not_be_contiguous(unshared):
    u, weight = draw(3, 6, 2).permute(2, 1, 0), draw(5, 3, 4, *unshared, seed=1)
    mask = lengths_mask([6, 3], 6).T.clone().T
    weight = weight.permute(-1, 0, 1, 2) if unshared else weight
    strided = weight.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not u.is_contiguous() and not strided.is_contiguous()
    expected = route(u.contiguous(), weight.contiguous(), 3, mask=mask.contiguous())
    torch.testing.assert_close(route(u, strided, 3, mask=mask), expected)


def test_inputs_are_left_as_they_were():
    tensors = u, weight, prior, mask = draw(2, 6, 3), draw(4, 3, 5), draw(4), lengths_mask([6, 2], 6)
    before = [t.clone() for t in tensors]
    route(u, weight, 3, mask=mask, prior=prior)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
