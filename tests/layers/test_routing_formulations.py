"""Every formulation of dynamic routing gives the numbers and gradients of the reference."""

from __future__ import annotations

import pytest
import torch
from draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from capslib.layers import native, route, routing

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)
compiled = pytest.mark.skipif(not native.available(), reason="no C++ compiler or no ninja on this machine")
ALL = ["shared", "votes", pytest.param("native", marks=compiled)]


def weights(formulation: str, I: int, J: int, F: int, D: int, **options) -> torch.Tensor:
    unshared = () if formulation == "shared" else (I,)
    return draw(*unshared, J, F, D, seed=1, **options)


@st.composite
def calls(draw_from) -> dict:
    """Sizes, masks, biases, priors and iterations; sizes past a register's lanes and past the native limit of F."""
    B, I = draw_from(st.integers(1, 20)), draw_from(st.integers(1, 9))
    F, J = draw_from(st.sampled_from([1, 3, 8, 16, 20])), draw_from(st.integers(1, 6))
    D, seed = draw_from(st.sampled_from([1, 3, 8, 16])), draw_from(st.integers(0, 999))
    prior = draw_from(st.sampled_from([None, (J,), (I, 1), (B, I, J), (B, 1, J)]))
    bias = draw_from(st.sampled_from([None, (J, D), (B, J, D)]))
    return {
        "sizes": (B, I, F, J, D),
        "seed": seed,
        "num_iterations": draw_from(st.integers(1, 5)),
        "detach_iterations": draw_from(st.booleans()),
        "prior": None if prior is None else draw(*prior, seed=seed + 2),
        "bias": None if bias is None else draw(*bias, seed=seed + 3, scale=0.3),
        "mask": draw(B, I, seed=seed + 4) > -0.5 if draw_from(st.booleans()) else None,
    }


def outcome(formulation: str, call: dict, unshared: bool, dtype: torch.dtype) -> list[torch.Tensor]:
    """Capsules, coupling, and the gradients of u, weight, prior and bias."""
    (B, I, F, J, D), seed = call["sizes"], call["seed"]
    weight = draw(*((I,) if unshared else ()), J, F, D, seed=seed + 1, scale=0.5)
    given_ = {"u": draw(B, I, F, seed=seed), "weight": weight}
    given_ |= {name: call[name] for name in ("prior", "bias") if call[name] is not None}
    leaves = {name: value.to(dtype).requires_grad_() for name, value in given_.items()}
    options = {name: call[name] for name in ("num_iterations", "detach_iterations", "mask")}
    v, coupling = route(**leaves, **options, formulation=formulation, return_coupling=True)
    probe = draw(B, J, D, seed=seed + 5).to(dtype)
    gradients = torch.autograd.grad((v * probe).sum(), list(leaves.values()), allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in leaves.values()]
    return [v.detach(), coupling, *(z if g is None else g for g, z in zip(gradients, zeros, strict=True))]


@pytest.mark.parametrize("formulation", ALL)
@PROPERTY
@given(call=calls())
def test_numbers_and_gradients_are_those_of_the_reference(formulation, call):
    unshared = formulation != "shared"
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        exact = outcome("reference", call, unshared, torch.float64)
        for ours, expected in zip(outcome(formulation, call, unshared, dtype), exact, strict=True):
            scale = expected.abs().max().clamp_min(0.1)  # relative to the largest number of its tensor
            torch.testing.assert_close(ours.double() / scale, expected / scale, rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize("formulation", ["reference", *ALL])
def test_gradcheck(formulation):
    u, weight = draw(3, 5, 3), weights(formulation, 5, 4, 3, 2)
    prior, bias = draw(4, seed=2), draw(3, 4, 2, seed=3)
    mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]

    def rule(u, weight, prior, bias):
        return route(u, weight, 3, mask=mask, prior=prior, bias=bias, formulation=formulation)

    leaves = [x.requires_grad_() for x in (u, weight, prior, bias)]
    assert torch.autograd.gradcheck(rule, leaves, fast_mode=True)


def test_working_on_a_few_samples_at_a_time_changes_nothing():
    # Two samples have as many votes as are formed at once.
    call = {"sizes": (5, 512, 2, 64, 16), "seed": 0, "num_iterations": 3, "detach_iterations": False, "prior": None}
    call |= {"bias": draw(5, 64, 16, seed=3), "mask": draw(5, 512, seed=4) > -0.5}
    some, whole = (outcome(formulation, call, True, torch.float64) for formulation in ("votes", "reference"))
    for ours, expected in zip(some, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("formulation", ALL)
def test_the_backward_runs_twice_and_only_once_deep(formulation):
    u, weight = draw(2, 5, 3).requires_grad_(), weights(formulation, 5, 4, 3, 2)
    v = route(u, weight, formulation=formulation)
    first, second = (torch.autograd.grad(v.sum(), u, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (slope,) = torch.autograd.grad(v.square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("formulation", ALL)
@pytest.mark.parametrize("case", ["silence", "all masked", "no inputs", "no clips"])
def test_silence_padding_and_emptiness_are_zero_with_finite_gradients(formulation, case):
    B, I = (0 if case == "no clips" else 2), (0 if case == "no inputs" else 6)
    u = (torch.zeros(B, I, 3) if case == "silence" else draw(B, I, 3, dtype=torch.float32)).requires_grad_()
    weight = weights(formulation, I, 4, 3, 8, dtype=torch.float32).requires_grad_()
    mask = torch.zeros(B, I).bool() if case == "all masked" else None
    # Without numbers there is nothing to choose between formulations: `route` takes the reference.
    v = route(u, weight, mask=mask, formulation=None if case.startswith("no ") else formulation)
    v.norm(dim=-1).sum().backward()
    assert v.shape == (B, 4, 8) and (v == 0).all()
    assert u.grad.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize("formulation", ALL)
def test_batch_mates_and_padding_change_nothing(formulation):
    u, weight = draw(20, 9, 3), weights(formulation, 9, 4, 3, 8)
    mask = torch.arange(9) < torch.arange(20)[:, None] % 9 + 1
    together = route(u, weight, mask=mask, formulation=formulation)
    for row in (0, 7, 19):
        length = int(mask[row].sum())
        weight_alone = weight[:length] if weight.dim() == 4 else weight
        alone = route(u[row : row + 1, :length], weight_alone, formulation=formulation)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("formulation", ALL)
def test_half_precision_is_routed_in_single(formulation):
    u, weight = draw(4, 20, 16, dtype=torch.float32), weights(formulation, 20, 5, 16, 8, scale=0.1, dtype=torch.float32)
    exact = route(u, weight, formulation=formulation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v = route(u.bfloat16().requires_grad_(), weight.bfloat16(), formulation=formulation)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v, exact, rtol=0, atol=1e-2)
    v.sum().backward()


def test_the_choice_is_by_shape_and_device(monkeypatch):
    u, shared, unshared = torch.zeros(2, 5, 3), torch.zeros(4, 3, 2), torch.zeros(5, 4, 3, 2)
    monkeypatch.delenv("CAPSLIB_NATIVE", raising=False)
    assert routing.choose(u, shared) == "shared" and routing.choose(u, unshared) == "votes"
    assert routing.choose(u[:0], unshared) == "reference"
    monkeypatch.setenv("CAPSLIB_NATIVE", "1")  # opt in
    assert routing.choose(u, unshared) == "native" and routing.choose(u, shared) == "shared"


@pytest.mark.parametrize("formulation", ["fast", "votes"])
def test_a_formulation_for_other_weights_is_refused(formulation):
    with pytest.raises(ValueError, match=rf"formulation='{formulation}' is not for a weight \(4, 3, 2\)"):
        route(torch.zeros(2, 5, 3), torch.zeros(4, 3, 2), formulation=formulation)


@compiled
def test_native_results_do_not_depend_on_the_number_of_threads():
    u, weight = draw(20, 40, 8, dtype=torch.float32), weights("native", 40, 4, 8, 8, dtype=torch.float32)
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaf = u.clone().requires_grad_()
            v = route(leaf, weight, formulation="native")
            outcomes.append((v, *torch.autograd.grad(v.sum(), leaf)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@compiled
@pytest.mark.parametrize("F", [8, 32])
def test_native_backward_inside_autocast_stays_in_single_precision(F):
    u, weight = draw(5, 6, F, dtype=torch.float32), weights("native", 6, 4, F, 8, scale=0.1, dtype=torch.float32)
    gradients = []
    for enabled in (False, True):
        leaf = u.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            route(leaf, weight, formulation="native").square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_native_refuses_what_is_not_on_the_processor():
    with pytest.raises(ValueError, match="native routing takes float32 or float64 tensors on the processor"):
        route(torch.zeros(2, 5, 3), torch.zeros(5, 4, 3, 2, device="meta"), formulation="native")


def test_without_a_compiler_native_says_what_to_do(monkeypatch):
    from torch.utils import cpp_extension

    def refuse(*_, **__):
        raise RuntimeError("Ninja is required to load C++ extensions")

    monkeypatch.setattr(cpp_extension, "load", refuse)
    native.load.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"could not be compiled \(Ninja is required.*capslib\[native\].*unset"):
            native.load()
    finally:
        native.load.cache_clear()
