"""Every row of the same rule computes the same function, and the other rule is its paper's equations."""

import pytest
import torch

from bench import formulations
from bench.routing import Shape
from capslib.layers.routing import route_reference

# The C++ passes need a compiler; tests of the layers compare them.
ROWS = [row for row in formulations.SAME_RULE if row != formulations.NATIVE]


def draw(shape):
    random = torch.Generator().manual_seed(1)
    own = () if shape.shared else (shape.I,)
    options = {"generator": random, "dtype": torch.float64, "requires_grad": True}
    return torch.randn(shape.B, shape.I, shape.F, **options), torch.randn(*own, shape.J, shape.F, shape.D, **options)


def outputs_and_gradients(call, u, weight, iterations):
    v = call(u, weight, iterations)
    return v, *torch.autograd.grad((v * torch.arange(v.numel(), dtype=v.dtype).view_as(v).cos()).sum(), (u, weight))


@pytest.mark.parametrize("shape", [Shape(3, 5, 4, 2, 6), Shape(2, 4, 6, 3, 5, shared=True)], ids=str)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("iterations", [1, 3])
def test_every_row_of_the_same_rule_is_the_reference(row, shape, iterations):
    def reference(u, weight, iterations):
        return route_reference(u, weight, iterations, detach_iterations=row in formulations.DETACHED)[0]

    results = outputs_and_gradients(formulations.SAME_RULE[row], *draw(shape), iterations)
    expected = outputs_and_gradients(reference, *draw(shape), iterations)
    for a, b in zip(results, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_masked_inputs_contribute_nothing_to_the_einsum_formulation():
    u, weight = draw(Shape(2, 4, 6, 3, 5, shared=True))
    mask = torch.tensor([[True, True, False, True], [True] * 4])
    votes = formulations.einsum_votes(u, weight)
    v = formulations.routed_by_einsum(votes, 3, mask)
    alone = formulations.routed_by_einsum(formulations.einsum_votes(u[:1, [0, 1, 3]], weight), 3)
    assert torch.allclose(v[0], alone[0])


@pytest.mark.parametrize("inputs", [5, None])
def test_heinsen_s_rule_is_its_equations(inputs):
    torch.manual_seed(0)
    layer = formulations.HeinsenRouting(inputs, 4, 3, 6).double()
    for parameter in (layer.b, layer.o, layer.h, layer.t):
        torch.nn.init.normal_(parameter)
    x = torch.randn(5, 4, dtype=torch.float64)
    use, ignore = (layer.use, layer.ignore) if inputs else (layer.use_of(x), layer.ignore_of(x))
    w, b, s, t = (p.expand(5, *p.shape[1:]) for p in (layer.w, layer.b, layer.s, layer.t))
    y = None
    for _ in range(3):
        following = torch.zeros(3, 6, dtype=torch.float64)
        for i in range(5):
            scaled = x[i] / 5**0.5
            active = torch.sigmoid(w[i] @ scaled + b[i])
            share = torch.full((3,), 1 / 3, dtype=torch.float64)
            if y is not None:
                normal = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
                predicted = (normal @ layer.Q) * layer.g + layer.h
                share = torch.sigmoid(s[i] * (predicted @ x[i]) + t[i]).log().softmax(-1)
            for j in range(3):
                vote = (scaled * layer.f[j]) @ layer.P + layer.o[j]
                gain = use[i, j] * active * share[j] - ignore[i, j] * active * (1 - share[j])
                following[j] = following[j] + gain * vote
        y = following
    expected = torch.nn.functional.layer_norm(y, (6,))
    assert torch.allclose(layer(x[None])[0], expected)
