"""Sequential and recurrent capsules against P2's equations written as loops, and by what must hold."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from capslib.layers import RecurrentCapsules, SequentialCapsules, emotion_vector, sequential, slide

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True)
LAYERS = [SequentialCapsules, RecurrentCapsules]
both = pytest.mark.parametrize("layer", LAYERS, ids=["sequential", "recurrent"])


def squashed(s: np.ndarray) -> np.ndarray:
    length = np.sqrt(s @ s)
    return length / (1 + length**2) * s  # equation 6


def routed_in_loops(u: list, matrices: list, added: np.ndarray, iterations: int) -> np.ndarray:
    """P2 equations 3 to 7 for one window: u_i (F,), matrices[i] (J, D, F), added (J, D) to each vote."""
    J, D, _ = matrices[0].shape
    votes = [[matrices[i][j] @ u[i] + added[j] for j in range(J)] for i in range(len(u))]
    logits, v = np.zeros((len(u), J)), np.zeros((J, D))
    for _ in range(iterations):
        for j in range(J):
            s = np.zeros(D)
            for i in range(len(u)):
                s += np.exp(logits[i, j]) / sum(np.exp(logits[i, k]) for k in range(J)) * votes[i][j]
            v[j] = squashed(s)
        for i in range(len(u)):
            for j in range(J):
                logits[i, j] += votes[i][j] @ v[j]
    return v


def vector(v: np.ndarray) -> np.ndarray:
    """Equation 8: capsules, then lengths."""
    return np.array([*v.ravel(), *(np.sqrt(capsule @ capsule) for capsule in v)])


def clip_in_loops(layer: SequentialCapsules, x: np.ndarray, iterations: int) -> np.ndarray:
    """Equations 3 to 10 for one clip without padding, (C, T, Q); convolution position by position."""
    weight, bias = (p.detach().numpy() for p in (layer.primary.convolutions.weight, layer.primary.convolutions.bias))
    K, half = layer.primary.num_convolutions, weight.shape[-1] // 2
    F, (C, T, _) = len(weight) // K, x.shape
    if layer.pool > 1:
        x = np.stack([x[:, :, q : q + layer.pool].max(2) for q in range(0, x.shape[2], layer.pool)], axis=2)
    Q, matrices = x.shape[2], layer.window_layer.weight.detach().numpy()
    step, outputs, before = -(-Q // layer.primary.pool) * K, [], None
    start = 0
    while not outputs or (start < T and start - layer.shift + layer.window < T):  # the last one did not reach the end
        inside = min(layer.window, T - start)
        padded = np.zeros((C, layer.window + 2 * half, Q + 2 * half))
        padded[:, half : half + inside, half : half + Q] = x[:, start : start + inside]
        u, unshared = [], []
        for t in range(inside):
            maps = np.empty((Q, len(weight)))
            for q in range(Q):
                patch = padded[:, t : t + 2 * half + 1, q : q + 2 * half + 1]
                maps[q] = [(kernel * patch).sum() for kernel in weight] + bias
            bins = [maps[q : q + layer.primary.pool].max(0) for q in range(0, Q, layer.primary.pool)]
            capsules = [b[k * F : (k + 1) * F] for b in bins for k in range(K)]
            u += [squashed(c) if layer.primary.squashed else c for c in capsules]
            unshared += list(matrices[t * step : (t + 1) * step])
        added = layer.window_layer.bias.detach().numpy()
        if isinstance(layer, RecurrentCapsules) and before is not None:
            added = added + (layer.recurrent.weight.detach().numpy() @ before).reshape(added.shape)  # equation 9
        before = vector(routed_in_loops(u, unshared, added, iterations))
        outputs.append(before)
        start += layer.shift
    shared = layer.clip_layer.weight.detach().numpy().transpose(0, 2, 1)
    return routed_in_loops(outputs, [shared] * len(outputs), layer.clip_layer.bias.detach().numpy(), iterations)


@st.composite
def layers(draw_from, largest: int = 4) -> tuple[SequentialCapsules, torch.Tensor, torch.Tensor, int]:
    """A layer with all weights drawn, clips (B, C, T, Q) that are zero past their lengths, lengths and iterations."""
    size = lambda low, high: draw_from(st.integers(low, high))  # noqa: E731
    seed, iterations, C, Q = size(0, 999), size(1, 3), size(1, 2), size(1, largest)
    torch.manual_seed(seed)
    layer = draw_from(st.sampled_from(LAYERS))(
        C,
        Q,
        **{name: size(1, 3) for name in ("window", "shift", "out_capsules", "out_features", "primary_features")},
        **{name: size(1, 3) for name in ("window_capsules", "window_features")},
        **{name: size(1, 2) for name in ("num_convolutions", "pool")},
        **{name: draw_from(st.booleans()) for name in ("pool_before", "squashed")},
        kernel_size=draw_from(st.sampled_from([1, 3])),
        num_iterations=iterations,
    ).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    lengths = torch.tensor(draw_from(st.lists(st.integers(1, 6), min_size=1, max_size=2)))
    x = draw(len(lengths), C, int(lengths.max()), Q, seed=seed)
    return layer, x * (torch.arange(x.shape[2]) < lengths[:, None])[:, None, :, None], lengths, iterations


@PROPERTY
@given(layers())
def test_layers_equal_p2_equations_3_to_10_in_loops(drawn):
    layer, x, lengths, iterations = drawn
    with torch.no_grad():
        v = layer(x, lengths)
    for row, n in enumerate(lengths.tolist()):
        expected = clip_in_loops(layer, x[row, :, :n].numpy(), iterations)
        np.testing.assert_allclose(v[row].numpy(), expected, atol=1e-10)


@PROPERTY
@given(layers())
def test_a_padded_clip_gives_the_capsules_of_the_clip_alone(drawn):
    layer, x, lengths, _ = drawn
    padded = torch.nn.functional.pad(x, (0, 0, 0, 5))
    with torch.no_grad():
        together = layer(padded, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone = layer(x[row : row + 1, :, :n], lengths[row : row + 1])
            torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(layers(largest=2))
def test_gradients_pass_gradcheck(drawn):
    layer, x, lengths, _ = drawn
    names, tensors = zip(*layer.named_parameters(), strict=True)

    def rule(x, *tensors):
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x, lengths))

    x = x + 1e-3 * draw(*x.shape, seed=1)  # no two values tie where they are pooled
    assert torch.autograd.gradcheck(
        rule, (x.requires_grad_(), *(t.detach().requires_grad_() for t in tensors)), fast_mode=True
    )


def test_recurrent_capsules_without_the_connection_are_sequential_ones():
    torch.manual_seed(0)
    recurrent, plain = (layer(2, 8, window=4, shift=2, pool=2) for layer in reversed(LAYERS))
    plain.load_state_dict({n: p for n, p in recurrent.state_dict().items() if not n.startswith("recurrent")})
    x, lengths = draw(2, 2, 9, 8).float(), torch.tensor([9, 9])
    with torch.no_grad():
        assert not torch.allclose(recurrent(x, lengths), plain(x, lengths), atol=1e-4)
        recurrent.recurrent.weight.zero_()
        torch.testing.assert_close(recurrent(x, lengths), plain(x, lengths))


def test_what_comes_later_reaches_no_earlier_window():
    torch.manual_seed(0)
    layer = RecurrentCapsules(2, 8, window=4, shift=2, pool=2)
    x, lengths = draw(1, 2, 10, 8).float(), torch.tensor([10])
    changed = x.clone()
    changed[:, :, 6:] += 1.0
    with torch.no_grad():
        before, after = layer.window_vectors(x, lengths)[0], layer.window_vectors(changed, lengths)[0]
    assert before.shape == (4, 8, 8)
    torch.testing.assert_close(before[:2], after[:2])
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(before[2:], after[2:], strict=True))


@pytest.mark.parametrize("steps, windows", [(0, 1), (1, 1), (10, 1), (11, 2), (15, 2), (50, 9), (52, 10)])
def test_windows_cover_every_step(steps, windows):
    """Two seconds are 50 steps: nine windows of ten, five apart."""
    cut, inside = slide(torch.arange(1.0, steps + 1)[None, :, None], torch.tensor([steps]), 10, 5)
    assert cut.shape == (1, windows, 10, 1)
    assert sequential.count_windows(torch.tensor([steps]), 10, 5).item() == windows
    assert set(cut[0][inside[0]].flatten().tolist()) == set(range(1, steps + 1))
    assert (cut[0][~inside[0]] == 0).all()


def test_emotion_vector_is_capsules_then_lengths():
    v = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert emotion_vector(v).tolist() == [3.0, 4.0, 0.0, 2.0, 5.0, 2.0]


@both
def test_a_clip_without_steps_is_finite_with_finite_gradients(layer):
    layer = layer(2, 8, window=4, shift=2)
    v = layer(torch.zeros(2, 2, 5, 8), torch.tensor([0, 5]))
    v.norm(dim=-1).sum().backward()
    assert v.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@both
def test_weights_start_from_glorot_range(layer):
    torch.manual_seed(0)
    layer = layer(16, 128)
    for weight, fan in ((layer.window_layer.weight, 8 + 8), (layer.clip_layer.weight, 72 + 16)):
        assert 0.99 < weight.abs().max() / (6 / fan) ** 0.5 <= 1 and (weight.mean().abs() < 0.01)
    assert 0.99 < layer.primary.convolutions.weight.abs().max() / (6 / (25 * (16 + 8))) ** 0.5 <= 1
    assert (layer.window_layer.bias == 0).all() and (layer.primary.convolutions.bias == 0).all()


@both
def test_bf16_autocast_stays_near(layer):
    torch.manual_seed(0)
    layer, x, lengths = layer(2, 16, window=4, shift=2), draw(2, 2, 11, 16).float(), torch.tensor([11, 3])
    with torch.no_grad():
        exact = layer(x, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = layer(x, lengths)
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["window", "shift", "pool", "in_bins", "out_features", "num_iterations"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        SequentialCapsules(**{"in_channels": 2, "in_bins": 8, name: 0})


@both
@pytest.mark.parametrize("shape", [(2, 2, 11, 15), (2, 3, 11, 16), (2, 11, 16)])
def test_a_map_of_another_size_is_refused_even_if_it_pools_to_the_same(layer, shape):
    layer = layer(2, 16, window=4, shift=2)
    with pytest.raises(ValueError, match=r"does not fit: expected \(B, 2, T, 16\)"):
        layer(torch.zeros(shape), torch.tensor([11, 3]))


def test_the_example_in_the_docstring_runs():
    tests = doctest.DocTestFinder().find(sequential, globs={"torch": torch, **vars(sequential)})
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(result.attempted for result in results) > 0 and all(result.failed == 0 for result in results)
