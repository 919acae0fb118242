"""Random tensors, masks and calls of routing rules for the tests of layers, and the frame of rules written as loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from capslib.layers import ROUTINGS

# The same examples on every run: a failure in somebody's checkout is then a failure in everybody's.
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
SIZES = st.integers(1, 6)


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.as_tensor(scale * np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def lengths_mask(lengths: list[int], steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


def inputs(B=3, I=6, F=4, J=3, D=5, *, unshared=False, seed=0, scale=0.5, dtype=torch.float64):
    """Input capsules and weight."""
    weight = draw(*((I,) if unshared else ()), J, F, D, seed=seed + 1, scale=scale, dtype=dtype)
    return draw(B, I, F, seed=seed, dtype=dtype), weight


def build(name: str, J: int, D: int, iterations: int = 3, seed: int = 7, dtype: torch.dtype = torch.float64):
    """The rule with parameters as after some training, so that none of them is zero or one."""
    rule = ROUTINGS[name](J, D, iterations).to(dtype)
    with torch.no_grad():
        for number, parameter in enumerate(rule.parameters()):
            parameter += draw(*parameter.shape, seed=seed + number, scale=0.3, dtype=dtype)
    return rule


@st.composite
def calls(draw_from) -> dict:
    """Arguments of a rule: sizes, shared or unshared weights, with and without mask, bias and prior."""
    B, I, F, J = (draw_from(st.integers(1, 5)) for _ in range(4))
    D, seed = draw_from(st.integers(2, 5)), draw_from(st.integers(0, 999))
    scale = draw_from(st.sampled_from([0.1, 0.5, 2.0]))
    u, weight = inputs(B, I, F, J, D, unshared=draw_from(st.booleans()), seed=seed, scale=scale)
    masks = st.lists(st.lists(st.booleans(), min_size=I, max_size=I), min_size=B, max_size=B)
    bias = draw_from(st.sampled_from([None, (J, D), (B, J, D)]))
    prior = draw_from(st.sampled_from([None, (J,), (I, J), (B, I, J), (B, 1, J)]))
    return {
        "u": u,
        "weight": weight,
        "mask": torch.tensor(draw_from(masks)) if draw_from(st.booleans()) else None,
        "bias": None if bias is None else draw(*bias, seed=seed + 3, scale=0.3),
        "prior": None if prior is None else draw(*prior, seed=seed + 2),
    }


def rule_for(name: str, call: dict, iterations: int = 3, seed: int = 7) -> nn.Module:
    J, _, D = call["weight"].shape[-3:]
    return build(name, J, D, iterations, seed)


def assert_equals_loops(rule, one_clip, u, weight, mask=None, bias=None, prior=None) -> None:
    """The rule gives the numbers of ``one_clip(rule, votes, valid, prior)``: loops over one clip, from the paper.

    Votes are (I, J, D), ``valid`` lists the inputs that there are, prior is (I, J); returns capsules (J, D) and
    coupling (I, J).
    """
    call = {"mask": mask, "bias": bias, "prior": prior}
    v, coupling = rule(u, weight, **call, return_coupling=True)
    (B, I, _), (J, _, D) = u.shape, weight.shape[-3:]
    priors = np.zeros((B, I, J)) if prior is None else np.broadcast_to(prior.numpy(), (B, I, J))
    biases = np.zeros((B, J, D)) if bias is None else np.broadcast_to(bias.numpy(), (B, J, D))
    matrices = np.broadcast_to(weight.numpy(), (I, *weight.shape[-3:]))
    for b in range(B):
        valid = [i for i in range(I) if mask is None or mask[b, i]]
        votes = np.array([[u[b, i].numpy() @ matrices[i, j] + biases[b, j] for j in range(J)] for i in range(I)])
        expected_v, expected_coupling = one_clip(rule, votes, valid, priors[b])
        np.testing.assert_allclose(v[b].detach().numpy(), expected_v, rtol=0, atol=1e-10)
        np.testing.assert_allclose(coupling[b].detach().numpy(), expected_coupling, rtol=0, atol=1e-10)
    torch.testing.assert_close(rule(u, weight, **call), v)
    assert (v.norm(dim=-1) < 1).all()


def normalized(logs) -> np.ndarray:
    powers = np.exp(np.array(logs) - max(logs))
    return powers / powers.sum()
