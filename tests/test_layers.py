"""Layers: against slow and plain versions of themselves, and by what must hold whatever the numbers are."""

from __future__ import annotations

import copy
import doctest
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from capslib.layers import (
    AttentionPooling,
    BiLSTM,
    CapsuleLayer,
    DynamicRouting,
    MarginLoss,
    MaskedBatchNorm,
    Standardize,
    capsules,
    masked_mean,
    reverse,
    route,
    squash,
)

# The same examples on every run: a failure in somebody's checkout is then a failure in everybody's.
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
SIZES = st.integers(1, 6)


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.as_tensor(scale * np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def lengths_mask(lengths: list[int], steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


# --- Squash


@PROPERTY
@given(size=SIZES, seed=st.integers(0, 999), exponent=st.integers(-3, 3))
def test_squash_shortens_and_keeps_the_direction(size, seed, exponent):
    s = draw(4, size, seed=seed, scale=10.0**exponent)
    v = squash(s)
    before, after = s.norm(dim=-1), v.norm(dim=-1)
    assert (after < 1).all() and (after < before).all()
    torch.testing.assert_close(after, before**2 / (1 + before**2))  # Sabour et al., equation 1
    torch.testing.assert_close(v / after[:, None], s / before[:, None])


def test_squash_is_monotone_in_length():
    lengths = torch.logspace(-8, 4, 200, dtype=torch.float64)
    assert (squash(lengths[:, None] * torch.tensor([[0.6, 0.8]]).double()).norm(dim=-1).diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_squash_of_zero_is_zero_with_a_finite_gradient(dtype):
    s = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    v = squash(s)
    v.sum().backward()
    assert v.dtype == dtype and (v == 0).all() and s.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_squash_of_half_precision_neither_overflows_nor_vanishes(dtype):
    s = torch.tensor([[300.0, 400.0], [0.003, 0.004]], dtype=dtype)  # squares leave the range of float16
    torch.testing.assert_close(squash(s).double(), squash(s.double()), rtol=1e-2, atol=1e-8)


def test_squash_along_another_axis():
    s = draw(3, 4, 5)
    torch.testing.assert_close(squash(s, dim=1), squash(s.movedim(1, -1)).movedim(-1, 1))


def test_squash_has_the_right_gradient():
    assert torch.autograd.gradcheck(squash, draw(3, 4).requires_grad_())
    assert torch.autograd.gradcheck(squash, draw(3, 4, scale=1e-3).requires_grad_())


# --- Routing


def route_in_loops(u, weight, num_iterations, mask=None, prior=None) -> tuple[np.ndarray, np.ndarray]:
    """Procedure 1 of Sabour et al. 2017, capsule by capsule; inputs that are masked are not there at all."""
    B, I, _ = u.shape
    J, _, D = weight.shape[-3:]
    v, coupling = np.zeros((B, J, D)), np.zeros((B, I, J))
    for b in range(B):
        inputs = [i for i in range(I) if mask is None or mask[b, i]]
        logits = np.zeros((I, J)) if prior is None else np.array(np.broadcast_to(prior, (B, I, J))[b])
        votes = {(i, j): u[b, i] @ (weight[j] if weight.ndim == 3 else weight[i, j]) for i in inputs for j in range(J)}
        for _ in range(num_iterations):
            coupling[b] = 0
            for i in inputs:  # each input shares itself out among the outputs
                shares = np.exp(logits[i] - logits[i].max())
                coupling[b, i] = shares / shares.sum()
            for j in range(J):
                s = sum((coupling[b, i, j] * votes[i, j] for i in inputs), np.zeros(D))
                length = np.sqrt(s @ s)
                v[b, j] = length / (1 + length**2) * s
            for i in inputs:
                for j in range(J):
                    logits[i, j] += votes[i, j] @ v[b, j]
    return v, coupling


def route_with_votes(u, weight, num_iterations, mask=None, prior=None) -> torch.Tensor:
    """The same with every vote written out, for autograd."""
    equation = "bif,jfd->bijd" if weight.dim() == 3 else "bif,ijfd->bijd"
    votes = torch.einsum(equation, u, weight)
    logits = torch.zeros(votes.shape[:-1], dtype=u.dtype)
    logits = logits if prior is None else logits + prior
    for _ in range(num_iterations):
        coupling = torch.exp(logits) / torch.exp(logits).sum(2, keepdim=True)
        if mask is not None:
            coupling = torch.where(mask[..., None], coupling, 0.0)
        s = torch.einsum("bij,bijd->bjd", coupling, votes)
        length = s.norm(dim=-1, keepdim=True)
        v = length / (1 + length**2) * s
        logits = logits + torch.einsum("bijd,bjd->bij", votes, v)
    return v


@st.composite
def routings(draw_from) -> dict:
    """Arguments of ``route`` as float64: sizes, shared or own matrices, with and without mask and prior."""
    B, I, F, J, D = (draw_from(SIZES) for _ in range(5))
    seed = draw_from(st.integers(0, 999))
    own = (I,) if draw_from(st.booleans()) else ()
    masks = st.lists(st.lists(st.booleans(), min_size=I, max_size=I), min_size=B, max_size=B)
    prior = draw_from(st.sampled_from([None, (J,), (I, J), (B, I, J), (B, 1, J)]))
    return {
        "u": draw(B, I, F, seed=seed),
        "weight": draw(*own, J, F, D, seed=seed + 1, scale=draw_from(st.sampled_from([0.1, 0.5, 2.0]))),
        "num_iterations": draw_from(st.integers(1, 5)),
        "mask": torch.tensor(draw_from(masks)) if draw_from(st.booleans()) else None,
        "prior": None if prior is None else draw(*prior, seed=seed + 2),
    }


@PROPERTY
@given(routings())
def test_routing_equals_loops(arguments):
    v, coupling = route(**arguments, return_coupling=True)
    as_arrays = {n: a.numpy() if isinstance(a, torch.Tensor) else a for n, a in arguments.items()}
    expected_v, expected_coupling = route_in_loops(**as_arrays)
    np.testing.assert_allclose(v.numpy(), expected_v, atol=1e-10)
    np.testing.assert_allclose(coupling.numpy(), expected_coupling, atol=1e-10)
    torch.testing.assert_close(route(**arguments), v)


@PROPERTY
@given(routings())
def test_routing_in_single_precision(arguments):
    single = {
        n: a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for n, a in arguments.items()
    }
    torch.testing.assert_close(route(**single).double(), route(**arguments), rtol=0, atol=1e-4)


@PROPERTY
@given(routings())
def test_gradients_of_routing_flow_through_every_pass(arguments):
    leaves = {n: a.requires_grad_() for n, a in arguments.items() if torch.is_tensor(a) and a.is_floating_point()}
    if arguments["mask"] is not None and not arguments["mask"].any(1).all():
        arguments["mask"][:, 0] = True  # the plain version has no gradient at the zero vector
    probe = draw(len(arguments["u"]), *arguments["weight"].shape[-3::2], seed=5)
    gradients = [
        torch.autograd.grad((rule(**arguments) * probe).sum(), list(leaves.values()), allow_unused=True)
        for rule in (route, route_with_votes)
    ]
    for name, ours, plain in zip(leaves, *gradients, strict=True):
        zero = torch.zeros_like(leaves[name])
        torch.testing.assert_close(zero if ours is None else ours, zero if plain is None else plain, msg=name)


@pytest.mark.parametrize("own", [(), (5,)], ids=["shared", "own"])
def test_routing_passes_gradcheck(own):
    u, weight, prior = draw(2, 5, 3), draw(*own, 4, 3, 2, seed=1), draw(4, seed=2)
    mask = lengths_mask([5, 2], 5)

    def rule(u, weight, prior):
        return route(u, weight, 3, mask=mask, prior=prior, return_coupling=True)

    assert torch.autograd.gradcheck(rule, [t.requires_grad_() for t in (u, weight, prior)])


@PROPERTY
@given(routings())
def test_coupling_sums_to_one_over_outputs_and_is_zero_at_masked_inputs(arguments):
    _, coupling = route(**arguments, return_coupling=True)
    mask = arguments["mask"]
    total = torch.ones(coupling.shape[:2]).double() if mask is None else mask.double()
    torch.testing.assert_close(coupling.sum(-1), total)
    assert (coupling >= 0).all()


def test_softmax_is_over_outputs_and_not_over_inputs():
    """The commonest fault of published code: there, each output's shares over the inputs sum to one."""
    u, weight = draw(3, 7, 4), draw(5, 4, 6, seed=1)
    _, coupling = route(u, weight, 3, return_coupling=True)
    torch.testing.assert_close(coupling.sum(2), torch.ones(3, 7).double())
    assert (coupling.sum(1) - 1).abs().min() > 0.01
    # One input alone decides nothing about another's shares: doubling the inputs doubles what is summed up.
    once, twice = (route(u.repeat(1, k, 1), weight, 1).norm(dim=-1) for k in (1, 2))
    torch.testing.assert_close(twice / (1 - twice), 4 * once / (1 - once))  # length / (1 - length) is |s| squared


@pytest.mark.parametrize("own", [(), (6,)], ids=["shared", "own"])
def test_one_pass_couples_uniformly(own):
    u, weight = draw(2, 6, 3), draw(*own, 4, 3, 5, seed=1)
    v, coupling = route(u, weight, 1, return_coupling=True)
    torch.testing.assert_close(coupling, torch.full((2, 6, 4), 0.25).double())
    torch.testing.assert_close(v, route(u, weight, 1, mask=torch.ones(2, 6, dtype=torch.bool)))


def test_more_passes_agree_more():
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


@PROPERTY
@given(routings())
def test_batch_mates_change_nothing(arguments):
    together = route(**arguments)
    for row in range(len(together)):
        alone = dict(arguments)
        for name in ("u", "mask", "prior"):
            value = arguments[name]
            whole = value is not None and (name != "prior" or value.dim() == 3)
            alone[name] = value[row : row + 1] if whole else value
        torch.testing.assert_close(route(**alone)[0], together[row], rtol=0, atol=1e-12)


@PROPERTY
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4), passes=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_padded_clip_gives_the_capsules_of_the_clip_alone(lengths, passes, seed):
    u, weight = draw(len(lengths), 7, 4, seed=seed), draw(3, 4, 5, seed=seed + 1)  # what pads is noise
    together, coupling = route(u, weight, passes, mask=lengths_mask(lengths, 7), return_coupling=True)
    for row, length in enumerate(lengths):
        alone, shares = route(u[row : row + 1, :length], weight, passes, return_coupling=True)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(coupling[row, :length], shares[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("own", [(), (6,)], ids=["shared", "own"])
@pytest.mark.parametrize("case", ["silence", "all masked", "one row masked", "no inputs"])
def test_nothing_to_route_is_zero_with_finite_gradients(case, own, dtype):
    I = 0 if case == "no inputs" else 6
    u = torch.zeros(2, I, 3, dtype=dtype) if case == "silence" else draw(2, I, 3, dtype=dtype)
    weight = draw(*(own and (I,)), 4, 3, 5, seed=1, dtype=dtype)
    mask = {"all masked": lengths_mask([0, 0], I), "one row masked": lengths_mask([6, 0], I)}.get(case)
    u.requires_grad_(), weight.requires_grad_()
    v, coupling = route(u, weight, 3, mask=mask, return_coupling=True)
    v.norm(dim=-1).sum().backward()  # lengths, as the losses read them
    assert v.isfinite().all() and coupling.isfinite().all()
    assert (v[1] == 0).all()
    assert u.grad.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize("own", [(), (6,)], ids=["shared", "own"])
def test_an_empty_batch(own):
    v, coupling = route(draw(0, 6, 3), draw(*own, 4, 3, 5), 3, mask=torch.ones(0, 6).bool(), return_coupling=True)
    assert v.shape == (0, 4, 5) and coupling.shape == (0, 6, 4)


@pytest.mark.parametrize("own", [(), (1,)], ids=["shared", "own"])
def test_one_capsule_in_and_one_out(own):
    u, weight = draw(2, 1, 3), draw(*own, 1, 3, 4, seed=1)
    v, coupling = route(u, weight, 3, return_coupling=True)
    assert (coupling == 1).all()  # there is nowhere else to go
    torch.testing.assert_close(v, squash(u @ weight.reshape(3, 4)))


@pytest.mark.parametrize("own", [(), (6,)], ids=["shared", "own"])
def test_inputs_need_not_be_contiguous(own):
    u, weight, mask = draw(3, 6, 2).permute(2, 1, 0), draw(5, 3, 4, *own, seed=1), lengths_mask([6, 3], 6).T.clone().T
    weight = weight.permute(-1, 0, 1, 2) if own else weight
    strided = weight.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not u.is_contiguous() and not strided.is_contiguous()
    expected = route(u.contiguous(), weight.contiguous(), 3, mask=mask.contiguous())
    torch.testing.assert_close(route(u, strided, 3, mask=mask), expected)


def test_inputs_are_left_as_they_were():
    u, weight, prior, mask = draw(2, 6, 3), draw(4, 3, 5), draw(4), lengths_mask([6, 2], 6)
    before = [t.clone() for t in (u, weight, prior, mask)]
    route(u, weight, 3, mask=mask, prior=prior)
    assert all(torch.equal(a, b) for a, b in zip(before, (u, weight, prior, mask), strict=True))


@pytest.mark.parametrize("own", [(), (20,)], ids=["shared", "own"])
def test_bf16_autocast_stays_within_a_hundredth(own):
    u, weight = draw(4, 20, 16, dtype=torch.float32), draw(*own, 5, 16, 8, scale=0.1, dtype=torch.float32)
    mask = lengths_mask([20, 3, 0, 11], 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, coupling = route(u, weight, 3, mask=mask, return_coupling=True)
    exact, exact_coupling = route(u, weight, 3, mask=mask, return_coupling=True)
    torch.testing.assert_close(v.float(), exact, rtol=0, atol=1e-2)
    torch.testing.assert_close(coupling.float(), exact_coupling, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "u, weight, options, says",
    [
        ((2, 6, 3), (4, 3, 5), {"num_iterations": 0}, r"num_iterations=0: routing needs at least one pass"),
        ((2, 6, 3), (4, 2, 5), {}, r"u \(2, 6, 3\) and weight \(4, 2, 5\) do not fit"),
        ((6, 3), (4, 3, 5), {}, r"u \(6, 3\) and weight .* expected \(B, I, F\)"),
        ((2, 6, 3), (3, 5), {}, r"weight \(3, 5\) do not fit"),
        ((2, 6, 3), (7, 4, 3, 5), {}, r"weight is for 7 input capsules, u has 6"),
        ((2, 6, 3), (4, 3, 5), {"mask": torch.ones(2, 5).bool()}, r"mask \(2, 5\) does not fit .* expected \(2, 6\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told_in_one_sentence(u, weight, options, says):
    with pytest.raises(ValueError, match=says):
        route(torch.zeros(u), torch.zeros(weight), **options)


# --- Capsule layer


@pytest.mark.parametrize("in_capsules", [None, 6])
@pytest.mark.parametrize("prior", [False, True])
def test_capsule_layer_is_routing_through_its_weights(in_capsules, prior):
    layer = CapsuleLayer(3, 4, 5, num_iterations=2, in_capsules=in_capsules, prior=prior).double()
    if prior:
        nn.init.normal_(layer.prior)
    u, mask = draw(2, 6, 3), lengths_mask([6, 2], 6)
    v, coupling = layer(u, mask, return_coupling=True)
    assert v.shape == (2, 4, 5) and coupling.shape == (2, 6, 4)
    expected = route_in_loops(
        u.numpy(), layer.matrices.detach().numpy(), 2, mask.numpy(), layer.prior.detach().numpy() if prior else None
    )
    np.testing.assert_allclose(v.detach().numpy(), expected[0], atol=1e-10)
    np.testing.assert_allclose(coupling.detach().numpy(), expected[1], atol=1e-10)
    assert sum(p.numel() for p in layer.parameters()) == (in_capsules or 1) * 4 * 3 * 5 + 4 * prior


def test_capsule_layer_adds_its_bias_to_every_vote():
    layer = CapsuleLayer(3, 4, 5, num_iterations=2, bias=True).double()
    nn.init.normal_(layer.bias)
    u = draw(2, 6, 3)
    # A constant input that its own matrix turns into the bias does the same.
    longer = torch.cat([u, torch.ones(2, 6, 1).double()], -1)
    weight = torch.cat([layer.weight, layer.bias[:, None]], 1)
    torch.testing.assert_close(layer(u), route(longer, weight, 2))
    assert layer.bias.shape == (4, 5)


def test_capsule_layer_trains_every_parameter():
    layer = CapsuleLayer(3, 4, 5, bias=True, prior=True)
    layer(draw(2, 6, 3, dtype=torch.float32)).norm(dim=-1)[:, 0].sum().backward()
    assert all((p.grad != 0).any() for p in layer.parameters())


def test_capsule_layer_starts_small_enough_not_to_saturate():
    torch.manual_seed(0)
    u = draw(4, 300, 128, dtype=torch.float32).tanh()
    lengths = CapsuleLayer(128, 10, 16)(u).norm(dim=-1)
    assert lengths.max() < 0.9
    limit = 0.1 * (6 / (128 + 16)) ** 0.5
    weight = CapsuleLayer(128, 10, 16).weight.detach()
    assert weight.abs().max() <= limit and weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)


def test_capsule_layer_takes_another_rule():
    class First(nn.Module):
        def forward(self, u, weight, mask=None, prior=None, return_coupling=False):
            return squash(u[:, :1] @ weight.flatten(0, 1)[: u.shape[-1]])

    assert CapsuleLayer(3, 4, 5, routing=First())(draw(2, 6, 3, dtype=torch.float32)).shape == (2, 1, 5)


@pytest.mark.parametrize("size", ["in_features", "out_capsules", "out_features", "in_capsules"])
def test_capsule_layer_refuses_sizes_below_one(size):
    sizes = {"in_features": 3, "out_capsules": 4, "out_features": 5} | {size: 0}
    with pytest.raises(ValueError, match=f"{size}=0: must be at least 1"):
        CapsuleLayer(**sizes)


def test_capsule_layer_refuses_zero_passes():
    for build in (lambda: CapsuleLayer(3, 4, 5, num_iterations=0), lambda: DynamicRouting(0)):
        with pytest.raises(ValueError, match="num_iterations=0: routing needs at least one pass"):
            build()


def test_capsule_layer_refuses_inputs_of_another_size():
    with pytest.raises(ValueError, match="do not fit"):
        CapsuleLayer(3, 4, 5)(torch.zeros(2, 6, 4))
    with pytest.raises(ValueError, match="weight is for 6 input capsules, u has 7"):
        CapsuleLayer(3, 4, 5, in_capsules=6)(torch.zeros(2, 7, 3))


@pytest.mark.parametrize("in_capsules", [None, 6])
def test_capsule_layer_compiles_whole(in_capsules):
    layer = CapsuleLayer(3, 4, 5, in_capsules=in_capsules, bias=True, prior=True)
    u, mask = draw(2, 6, 3, dtype=torch.float32), lengths_mask([6, 2], 6)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(u, mask), layer(u, mask))


def test_capsule_layer_survives_copies_and_files(tmp_path):
    layer, u = CapsuleLayer(3, 4, 5, prior=True), draw(2, 6, 3, dtype=torch.float32)
    nn.init.normal_(layer.prior)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    loaded = CapsuleLayer(3, 4, 5, prior=True)
    loaded.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    copied = copy.deepcopy(layer)
    assert torch.equal(loaded(u), layer(u)) and torch.equal(copied(u), layer(u))
    with torch.no_grad():
        copied.weight.zero_()
    assert torch.equal(loaded(u), layer(u))  # a copy shares nothing


def test_capsule_layer_says_what_it_is():
    shown = repr(CapsuleLayer(3, 4, 5, num_iterations=2))
    assert "in_features=3, out_capsules=4, out_features=5" in shown and "num_iterations=2" in shown


def test_examples_in_docstrings_run():
    outcome = doctest.testmod(capsules)
    assert outcome.attempted and not outcome.failed


# --- Margin loss


@PROPERTY
@given(batch=SIZES, classes=SIZES, weight=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 999))
def test_margin_loss_is_the_formula(batch, classes, weight, seed):
    random = np.random.default_rng(seed)
    lengths, there = random.uniform(size=(batch, classes)), random.integers(0, 2, (batch, classes))
    expected = np.mean(
        [
            sum(
                max(0, 0.9 - v) ** 2 if t else weight * max(0, v - 0.1) ** 2
                for v, t in zip(lengths[b], there[b], strict=True)
            )
            for b in range(batch)
        ]
    )
    loss = MarginLoss(down_weighting=weight)(torch.tensor(lengths), torch.tensor(there))
    np.testing.assert_allclose(loss.item(), expected, atol=1e-12)


def test_margin_loss_of_indices_is_that_of_one_hot():
    lengths, targets = draw(5, 3).sigmoid(), torch.tensor([0, 2, 1, 1, 0])
    torch.testing.assert_close(MarginLoss()(lengths, targets), MarginLoss()(lengths, nn.functional.one_hot(targets, 3)))


def test_margin_loss_by_hand():
    # present at 0.6: 0.3 squared; absent at 0.5: half of 0.4 squared; absent at 0.05: nothing
    loss = MarginLoss()(torch.tensor([[0.6, 0.5, 0.05]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.09 + 0.5 * 0.16)
    wider = MarginLoss(positive_margin=0.95, negative_margin=0.05, down_weighting=1.0)
    assert wider(torch.tensor([[0.6, 0.5]]), torch.tensor([0])).item() == pytest.approx(0.35**2 + 0.45**2)


def test_margin_loss_is_zero_when_all_is_right():
    assert MarginLoss()(torch.tensor([[0.95, 0.02], [0.1, 0.9]]), torch.tensor([0, 1])) == 0


def test_margin_loss_has_the_right_gradient():
    lengths = torch.linspace(0.02, 0.98, 12).double().view(4, 3).requires_grad_()
    targets = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda x: MarginLoss()(x, targets), lengths)


# --- Recurrent layers


@PROPERTY
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), features=SIZES)
def test_reverse_turns_each_sequence_within_its_length(lengths, features):
    x = draw(len(lengths), 6, features)
    turned = reverse(x, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        assert torch.equal(turned[row, :length], x[row, :length].flip(0))
        assert torch.equal(turned[row, length:], x[row, length:])
    assert torch.equal(reverse(turned, torch.tensor(lengths)), x)


def packed_twin(layer: BiLSTM, in_features: int, hidden_features: int) -> nn.LSTM:
    """torch's bidirectional LSTM with the same weights."""
    twin = nn.LSTM(in_features, hidden_features, batch_first=True, bidirectional=True).to(
        layer.ahead.weight_ih_l0.dtype
    )
    twin.load_state_dict(
        layer.ahead.state_dict() | {f"{name}_reverse": value for name, value in layer.back.state_dict().items()}
    )
    return twin


@PROPERTY
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_bilstm_equals_packed_sequences(lengths, seed):
    torch.manual_seed(seed)
    layer = BiLSTM(3, 4).double()
    twin = packed_twin(layer, 3, 4)
    x, lengths = draw(len(lengths), max(lengths), 3, seed=seed), torch.tensor(lengths)
    mask = lengths_mask(lengths.tolist(), x.shape[1])[..., None]
    probe = draw(*x.shape[:2], 8, seed=seed + 1) * mask
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(ours, lengths)
    packed = nn.utils.rnn.pack_padded_sequence(theirs, lengths, batch_first=True, enforce_sorted=False)
    z, _ = nn.utils.rnn.pad_packed_sequence(twin(packed)[0], batch_first=True)
    assert layer.out_features == 8
    torch.testing.assert_close(y * mask, z)
    (y * probe).sum().backward()
    (z * probe).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    for name, parameter in layer.ahead.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])
    for name, parameter in layer.back.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[f"{name}_reverse"])


def test_bilstm_starts_by_remembering():
    """Forget gates start open and recurrent matrices keep lengths, in both directions."""
    for lstm in (BiLSTM(3, 4).ahead, BiLSTM(3, 4).back):
        bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach()
        assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8  # input, forget, cell, output
        for gate in lstm.weight_hh_l0.detach().chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)


def test_bilstm_does_not_see_padding():
    layer, x, lengths = BiLSTM(3, 4), draw(3, 9, 3, dtype=torch.float32), torch.tensor([9, 1, 5])
    mask = lengths_mask(lengths.tolist(), 9)[..., None]
    expected = layer(x, lengths) * mask
    torch.testing.assert_close(layer(torch.where(mask, x, 1e6), lengths) * mask, expected)
    for row, length in enumerate(lengths):
        alone = layer(x[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], expected[row, :length], rtol=0, atol=1e-6)


# --- Normalization


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_masked_batch_norm_equals_torch_s_on_the_valid_steps(momentum):
    ours, theirs = MaskedBatchNorm(3, momentum).double(), nn.BatchNorm1d(3, momentum=momentum).double()
    with torch.no_grad():
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(parameter.uniform_(0.5, 2.0))
    for step, lengths in enumerate([[5, 2, 4], [1, 6, 3], [2, 0, 6]]):
        mask = lengths_mask(lengths, 6)
        x = 2.0 + 3.0 * draw(3, 6, 3, seed=step)
        probe = draw(3, 6, 3, seed=10 + step) * mask[..., None]
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = ours(a, mask), theirs(b[mask])
        torch.testing.assert_close(y[mask], z)
        assert (y[~mask] == 0).all()
        (y * probe).sum().backward()
        (z * probe[mask]).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, mask)[mask], theirs(x[mask]))
    torch.testing.assert_close(ours(x, mask)[:1, :2], ours(x[:1, :2], mask[:1, :2]))  # nobody else is looked at


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_masked_batch_norm_does_not_see_padding(value):
    x, mask = draw(3, 6, 2), lengths_mask([6, 1, 3], 6)
    dirty = torch.where(mask[..., None], x, value)
    clean_norm, dirty_norm = MaskedBatchNorm(2).double(), MaskedBatchNorm(2).double()
    torch.testing.assert_close(dirty_norm(dirty, mask), clean_norm(x, mask))
    torch.testing.assert_close(dirty_norm.running_var, clean_norm.running_var)


@pytest.mark.parametrize("lengths", [[0, 0], [1, 0]])
def test_masked_batch_norm_of_next_to_nothing_is_finite(lengths):
    norm, x = MaskedBatchNorm(2), draw(2, 3, 2, dtype=torch.float32).requires_grad_()
    y = norm(x, lengths_mask(lengths, 3))
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert norm.running_var.isfinite().all()


def test_standardize_gives_training_frames_mean_zero_and_variance_one():
    frames = draw(500, 4) * torch.tensor([1.0, 10.0, 0.01, 5.0]) + torch.tensor([0.0, 5.0, -3.0, 100.0])
    scaler = Standardize(4)
    scaler.fit(frames.float())
    scaled = scaler(frames.float())
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(4), rtol=1e-3, atol=0)
    assert scaled.dtype == torch.float32 and scaler(frames.float().view(5, 100, 4)).shape == (5, 100, 4)


def test_standardize_sums_in_double_precision():
    # In single precision the mean of a million of these is off by about 0.1, a hundred deviations.
    frames = 10_000.0 + 0.001 * draw(200_000, 1)
    scaler = Standardize(1).double()
    scaler.fit(frames)
    np.testing.assert_allclose(scaler.mean.numpy(), frames.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(1 / scaler.scale.numpy(), frames.numpy().std(0), rtol=1e-6)


def test_standardize_centres_a_constant_feature_and_does_not_scale_it():
    scaler = Standardize(2)
    scaler.fit(torch.stack([torch.full((50,), 7.0), torch.arange(50.0)], 1))
    assert scaler.scale[0] == 1
    torch.testing.assert_close(scaler(torch.tensor([[7.0, 24.5]])), torch.zeros(1, 2))


def test_standardize_carries_its_statistics_with_the_weights():
    scaler, other = Standardize(3), Standardize(3)
    scaler.fit(draw(20, 3))
    other.load_state_dict(scaler.state_dict())
    x = draw(4, 3, dtype=torch.float32)
    assert torch.equal(other(x), scaler(x)) and not list(scaler.parameters())


# --- Pooling


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
