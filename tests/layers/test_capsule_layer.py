"""The capsule layer: routing through its weights, its start and its refusals; rules are tested by themselves."""

from __future__ import annotations

import doctest

import pytest
import torch
from draws import draw, lengths_mask
from torch import nn

from capslib.layers import CapsuleLayer, capsules, route, squash


@pytest.mark.parametrize("in_capsules", [None, 6])
@pytest.mark.parametrize("prior", [False, True])
def test_capsule_layer_is_routing_through_its_weights(in_capsules, prior):
    layer = CapsuleLayer(3, 4, 5, num_iterations=2, in_capsules=in_capsules, bias=True, prior=prior).double()
    nn.init.normal_(layer.bias)
    if prior:
        nn.init.normal_(layer.prior)
    u, mask = draw(2, 6, 3), lengths_mask([6, 2], 6)
    weight = layer.weight if in_capsules is None else layer.weight.transpose(-1, -2)
    options = {"mask": mask, "bias": layer.bias, "prior": layer.prior, "return_coupling": True}
    for ours, expected in zip(
        layer(u, mask, return_coupling=True), route(u, weight, 2, formulation="reference", **options), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(layer(u, mask), layer(u, mask, return_coupling=True)[0])
    assert sum(p.numel() for p in layer.parameters()) == (in_capsules or 1) * 4 * 3 * 5 + 4 * 5 + 4 * prior


def test_capsule_layer_starts_small_enough_not_to_saturate():
    torch.manual_seed(0)
    u = draw(4, 300, 128, dtype=torch.float32).tanh()
    lengths = CapsuleLayer(128, 10, 16)(u).norm(dim=-1)
    assert lengths.max() < 0.9
    limit = 0.1 * (6 / (128 + 16)) ** 0.5
    weight = CapsuleLayer(128, 10, 16).weight.detach()
    assert weight.abs().max() <= limit and weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)


def test_capsule_layer_takes_a_rule_of_ones_own():
    class First(nn.Module):
        def forward(self, u, weight, **options):
            return squash(u[:, :1] @ weight.flatten(0, 1)[: u.shape[-1]])

    assert CapsuleLayer(3, 4, 5, routing=First())(draw(2, 6, 3, dtype=torch.float32)).shape == (2, 1, 5)


@pytest.mark.parametrize("size", ["in_features", "out_capsules", "out_features", "in_capsules", "num_iterations"])
def test_capsule_layer_refuses_sizes_below_one(size):
    sizes = {"in_features": 3, "out_capsules": 4, "out_features": 5} | {size: 0}
    with pytest.raises(ValueError, match=f"{size}=0: must be at least 1"):
        CapsuleLayer(**sizes)


def test_capsule_layer_refuses_inputs_of_another_size():
    with pytest.raises(ValueError, match=r"u \(2, 6, 4\) does not fit: expected \(B, I, 3\)"):
        CapsuleLayer(3, 4, 5)(torch.zeros(2, 6, 4))
    with pytest.raises(ValueError, match=r"u \(2, 7, 3\) does not fit: expected \(B, 6, 3\)"):
        CapsuleLayer(3, 4, 5, in_capsules=6)(torch.zeros(2, 7, 3))


def test_capsule_layer_shows_its_sizes():
    shown = repr(CapsuleLayer(3, 4, 5, num_iterations=2))
    assert "in_features=3, out_capsules=4, out_features=5" in shown and "num_iterations=2" in shown


def test_examples_in_docstrings_run():
    outcome = doctest.testmod(capsules)
    assert outcome.attempted and not outcome.failed
