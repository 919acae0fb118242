"""What every routing rule must hold: couplings, batches, masks, biases, precision, compilation, training, refusals."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from draws import PROPERTY, build, calls, draw, inputs, lengths_mask, rule_for
from hypothesis import given, settings
from torch import nn

from capslib.layers import (
    ROUTINGS,
    CapsuleLayer,
    DynamicRouting,
    EMRouting,
    InvertedAttentionRouting,
    MarginLoss,
    SelfAttentionRouting,
    route,
)

FEWER = settings(PROPERTY, max_examples=10)
BY_VOTES = ["em", "self_attention", "inverted_attention"]
every_rule = pytest.mark.parametrize("name", ROUTINGS)
rule_by_votes = pytest.mark.parametrize("name", BY_VOTES)
shared_and_unshared = pytest.mark.parametrize("unshared", [False, True], ids=["shared", "unshared"])


@every_rule
@FEWER
@given(call=calls())
def test_coupling_sums_to_one_over_outputs_and_is_zero_at_masked_inputs(name, call):
    _, coupling = rule_for(name, call)(**call, return_coupling=True)
    mask = call["mask"]
    total = torch.ones(coupling.shape[:2]).double() if mask is None else mask.double()
    torch.testing.assert_close(coupling.sum(-1), total)
    assert (coupling >= 0).all()


@every_rule
@shared_and_unshared
def test_softmax_is_over_outputs_and_not_over_inputs(name, unshared):
    """The commonest fault of published code: there, each output's shares over the inputs sum to one."""
    u, weight = inputs(I=7, unshared=unshared)
    _, coupling = build(name, 3, 5)(u, weight, return_coupling=True)
    torch.testing.assert_close(coupling.sum(2), torch.ones(3, 7).double())
    assert (coupling.sum(1) - 1).abs().min() > 0.01


# --- Batches, masks, padding, biases


@every_rule
@FEWER
@given(call=calls())
def test_batch_mates_change_nothing(name, call):
    rule = rule_for(name, call)
    together = rule(**call)
    for row in range(len(together)):
        alone = dict(call)
        for key, value in call.items():
            if value is not None and (key in ("u", "mask") or (key in ("bias", "prior") and value.dim() == 3)):
                alone[key] = value[row : row + 1]
        torch.testing.assert_close(rule(**alone)[0], together[row], rtol=0, atol=1e-10)


@every_rule
@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@shared_and_unshared
def test_a_padded_clip_gives_the_capsules_of_the_clip_alone(name, unshared, dtype, within):
    lengths = [9, 4, 1, 0]
    u, weight = inputs(4, 9, unshared=unshared, dtype=dtype)
    u[1, 6] = math.nan if name in BY_VOTES else 100.0
    rule = build(name, 3, 5, dtype=dtype)
    together, coupling = rule(u, weight, mask=lengths_mask(lengths, 9), return_coupling=True)
    for row, length in enumerate(lengths):
        alone, shares = rule(u[row : row + 1, :length], weight[:length] if unshared else weight, return_coupling=True)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=within)
        torch.testing.assert_close(coupling[row, :length], shares[0], rtol=0, atol=within)
        assert (coupling[row, length:] == 0).all()


@every_rule
@shared_and_unshared
def test_padding_gets_no_gradient(name, unshared):
    u, weight = inputs(2, unshared=unshared)
    u[1, 4:] = math.inf if name in BY_VOTES else 100.0
    u.requires_grad_(), weight.requires_grad_()
    build(name, 3, 5)(u, weight, mask=lengths_mask([6, 3], 6)).norm(dim=-1).sum().backward()
    assert (u.grad[1, 3:] == 0).all() and (u.grad[1, :3] != 0).any()
    assert weight.grad.isfinite().all()


@every_rule
@shared_and_unshared
def test_every_valid_input_counts(name, unshared):
    """In one public EM the activations of the inputs cancel, and what is switched off goes on voting."""
    u, weight = inputs(1, unshared=unshared)
    rule = build(name, 3, 5)
    everything = rule(u, weight)
    for i in range(6):
        mask = torch.arange(6)[None] != i
        without = rule(u, weight, mask=mask)
        assert (without - everything).abs().max() > 1e-3
        changed = u.clone()
        changed[0, i] = 5.0
        torch.testing.assert_close(rule(changed, weight, mask=mask), without)
        assert (rule(changed, weight) - everything).abs().max() > 1e-3


@every_rule
@shared_and_unshared
def test_a_bias_is_the_weight_of_a_constant_input(name, unshared):
    u, weight = inputs(unshared=unshared)
    bias, mask, rule = draw(3, 5, seed=3), lengths_mask([6, 2, 0], 6), build(name, 3, 5)
    longer = torch.cat([u, torch.ones(3, 6, 1).double()], -1)
    taller = torch.cat([weight, bias[:, None].expand(*weight.shape[:-2], 1, 5)], -2)
    expected = rule(longer, taller, mask=mask)
    torch.testing.assert_close(rule(u, weight, mask=mask, bias=bias), expected)
    torch.testing.assert_close(rule(u, weight, mask=mask, bias=bias.expand(3, 3, 5)), expected)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case", ["silence", "all masked", "one row masked", "same everywhere", "no inputs", "no clips"]
)
@shared_and_unshared
def test_nothing_to_route_is_finite_with_finite_gradients(name, case, unshared, dtype):
    I, B = 0 if case == "no inputs" else 6, 0 if case == "no clips" else 2
    u, weight = inputs(B, I, unshared=unshared, dtype=dtype)
    if case == "silence":
        u = torch.zeros_like(u)
    if case == "same everywhere":
        u = u[:, :1].repeat(1, I, 1)
    mask = {"all masked": lengths_mask([0, 0], I), "one row masked": lengths_mask([6, 0], I)}.get(case)
    u.requires_grad_(), weight.requires_grad_()
    rule = build(name, 3, 5, dtype=dtype)
    v, coupling = rule(u, weight, mask=mask, return_coupling=True)
    v.norm(dim=-1).sum().backward()  # lengths, as the losses read them
    assert v.shape == (B, 3, 5) and coupling.shape == (B, I, 3)
    assert v.isfinite().all() and coupling.isfinite().all()
    assert all(t.grad is None or t.grad.isfinite().all() for t in (u, weight, *rule.parameters()))
    if case in ("silence", "all masked", "one row masked", "no inputs"):
        assert (v[1] == 0).all()


# --- Long clips, gradients, precision, compilation, files


@every_rule
def test_long_clips_do_not_saturate(name):
    torch.manual_seed(0)
    layer = CapsuleLayer(128, 10, 16, routing=ROUTINGS[name](10, 16, 3))
    u = draw(4, 900, 128, dtype=torch.float32).tanh()
    lengths = layer(u).norm(dim=-1)
    assert (lengths > 0.05).all() and (lengths < 0.99).all()
    MarginLoss()(lengths, torch.arange(4)).backward()
    assert 0.1 < layer.weight.grad.norm() < 1e3


@rule_by_votes
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_scores_stay_below_one_and_finite_however_large_the_votes(name, scale):
    torch.manual_seed(0)
    layer = CapsuleLayer(128, 10, 16, routing=ROUTINGS[name](10, 16, 3))
    u = scale * draw(2, 900, 128, dtype=torch.float32)
    u[1] = u[1, 0]  # steps that all agree
    u.requires_grad_()
    lengths = layer(u).norm(dim=-1)
    lengths.sum().backward()
    assert (lengths < 1).all() and u.grad.isfinite().all() and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dynamic", "self_attention", "inverted_attention"])
def test_memory_grows_with_the_inputs_and_not_with_their_pairs_or_votes(name):
    B, I, F, J, D = 2, 700, 8, 6, 8
    sizes = []
    u, weight = inputs(B, I, F, J, D, dtype=torch.float32)
    rule = build(name, J, D, dtype=torch.float32)
    u.requires_grad_(), weight.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        rule(u, weight, mask=torch.ones(B, I, dtype=torch.bool)).sum().backward()
    assert max(sizes) <= B * I * max(F, J)


@pytest.mark.parametrize("name", [name for name in ROUTINGS if name != "dynamic_detached"])
@shared_and_unshared
def test_passes_gradcheck(name, unshared):
    u, weight = inputs(2, 5, 3, 3, 4, unshared=unshared)
    bias, prior, mask = draw(2, 3, 4, seed=3), draw(3, seed=2), lengths_mask([5, 2], 5)
    rule = build(name, 3, 4)
    parameters = dict(rule.named_parameters())

    def call(u, weight, bias, prior, *values):
        named, options = dict(zip(parameters, values, strict=True)), {"mask": mask, "return_coupling": True}
        return torch.func.functional_call(rule, named, (u, weight), options | {"bias": bias, "prior": prior})

    leaves = [t.detach().clone().requires_grad_() for t in (u, weight, bias, prior, *parameters.values())]
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


@every_rule
@shared_and_unshared
def test_bf16_autocast_computes_in_float32(name, unshared):
    """Exact for what goes in; bfloat16 steps, off by up to 1 / 256, move a capsule by less than 0.03."""
    u, weight = inputs(4, 20, 16, 5, 8, unshared=unshared, scale=0.1, dtype=torch.float32)
    mask = lengths_mask([20, 3, 0, 11], 20)
    rule = build(name, 5, 8, dtype=torch.float32)
    exact = rule(u, weight, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, coupling = rule(u, weight, mask=mask, return_coupling=True)
        rounded = rule(u.bfloat16(), weight, mask=mask)
    assert v.dtype == coupling.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(v, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=3e-2)


@rule_by_votes
def test_half_precision_modules_give_half_precision_scores_below_one(name):
    u, weight = inputs(4, 900, 16, 5, 8, dtype=torch.float32)
    rule = build(name, 5, 8, dtype=torch.float32).bfloat16()
    v = rule(u.bfloat16(), weight.bfloat16())
    assert v.dtype == torch.bfloat16 and v.isfinite().all() and (v.norm(dim=-1) < 1).all()


@every_rule
@shared_and_unshared
def test_compiles_whole(name, unshared):
    torch.manual_seed(0)
    in_capsules = 6 if unshared else None
    layer = CapsuleLayer(4, 3, 5, in_capsules=in_capsules, bias=True, prior=True, routing=build(name, 3, 5)).double()
    u, mask = draw(2, 6, 4).requires_grad_(), lengths_mask([6, 2], 6)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    v, expected = compiled(u, mask), layer(u, mask)
    torch.testing.assert_close(v, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), u)[0] for out in (v, expected)))


@every_rule
def test_survives_files_and_copies(name, tmp_path):
    layer = CapsuleLayer(4, 3, 5, prior=True, routing=build(name, 3, 5)).double()
    nn.init.normal_(layer.prior)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = CapsuleLayer(4, 3, 5, prior=True, routing=ROUTINGS[name](3, 5, 3)).double()
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    copied, u = copy.deepcopy(layer), draw(2, 6, 4)
    assert torch.equal(other(u), layer(u)) and torch.equal(copied(u), layer(u))
    with torch.no_grad():
        copied.weight.zero_()
    assert torch.equal(other(u), layer(u))  # a copy shares nothing


# --- Training


def separable(kind: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of 12 steps of 6 features in three classes, by where a clip lies or by which features are quiet in it."""
    y = torch.arange(60) % 3
    noise = draw(60, 12, 6, seed=seed, dtype=torch.float32)
    pair = nn.functional.one_hot(y, 3).repeat_interleave(2, dim=1)[:, None].float()
    return (0.3 * noise + pair if kind == "place" else noise * (1 - 0.9 * pair)), y


@pytest.mark.parametrize(
    "name, kind, unshared",
    [(name, "place", unshared) for name in ROUTINGS for unshared in (False, True) if (name, unshared) != ("em", False)]
    + [("em", "quiet", False)],
)
def test_fits_a_separable_problem(name, kind, unshared):
    torch.manual_seed(0)
    layer = CapsuleLayer(6, 3, 4, in_capsules=12 if unshared else None, routing=ROUTINGS[name](3, 4, 3))
    optimizer, loss = torch.optim.Adam(layer.parameters(), lr=0.03), MarginLoss()
    u, y = separable(kind, seed=0)
    first = loss(layer(u).norm(dim=-1), y).item()
    for _ in range(90):
        optimizer.zero_grad()
        value = loss(layer(u).norm(dim=-1), y)
        value.backward()
        optimizer.step()
    held_out, labels = separable(kind, seed=1)
    assert value < 0.5 * first
    assert (layer(held_out).norm(dim=-1).argmax(-1) == labels).float().mean() >= 0.95


@pytest.mark.parametrize("name", [name for name in ROUTINGS if name != "dynamic_detached"])
@shared_and_unshared
def test_trains_every_parameter(name, unshared):
    in_capsules = 6 if unshared else None
    layer = CapsuleLayer(4, 3, 5, in_capsules=in_capsules, bias=True, prior=True, routing=ROUTINGS[name](3, 5, 3))
    layer(draw(2, 6, 4, dtype=torch.float32))[:, 0].sum().backward()
    assert all((p.grad != 0).any() for p in layer.parameters())


# --- Names and refusals


def test_rules_have_names():
    kinds = {"dynamic": DynamicRouting, "uniform": DynamicRouting, "em": EMRouting}
    kinds |= {"self_attention": SelfAttentionRouting, "inverted_attention": InvertedAttentionRouting}
    assert all(isinstance(ROUTINGS[name](3, 5, 2), kind) for name, kind in kinds.items())
    for name in ("dynamic", "dynamic_detached", "em", "inverted_attention"):
        assert "num_iterations=2" in repr(ROUTINGS[name](3, 5, 2))
    u, weight = inputs()
    torch.testing.assert_close(ROUTINGS["uniform"](3, 5, 4)(u, weight), route(u, weight, 1))


def test_rules_own_few_parameters():
    owned = {name: sum(p.numel() for p in builder(10, 16, 3).parameters()) for name, builder in ROUTINGS.items()}
    expected = {"dynamic": 0, "dynamic_detached": 0, "uniform": 0, "em": 20, "self_attention": 10}
    assert owned == expected | {"inverted_attention": 32}


@pytest.mark.parametrize(
    "build_rule, says",
    [
        (lambda: DynamicRouting(0), "num_iterations=0: must be at least 1"),
        (lambda: EMRouting(0), "out_capsules=0: must be at least 1"),
        (lambda: EMRouting(3, 0), "num_iterations=0: must be at least 1"),
        (lambda: EMRouting(3, variance_floor=0.0), "variance_floor=0.0: must be above 0"),
        (lambda: EMRouting(3, inverse_temperature=-1.0), "inverse_temperature=-1.0: must be above 0"),
        (lambda: SelfAttentionRouting(3, 0), "out_features=0: must be at least 1"),
        (lambda: SelfAttentionRouting(3, 5, in_capsules=0), "in_capsules=0: must be at least 1"),
        (lambda: InvertedAttentionRouting(1), "out_features=1: must be at least 2"),
        (lambda: InvertedAttentionRouting(5, 0), "num_iterations=0: must be at least 1"),
        (lambda: route(torch.zeros(2, 6, 3), torch.zeros(4, 3, 5), 0), "num_iterations=0: must be at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(build_rule, says):
    with pytest.raises(ValueError, match=says):
        build_rule()


@every_rule
@pytest.mark.parametrize(
    "u, weight, options, says",
    [
        ((2, 6, 3), (4, 2, 5), {}, r"u \(2, 6, 3\) does not fit: expected \(B, I, 2\)"),
        ((6, 3), (4, 3, 5), {}, r"u \(6, 3\) does not fit: expected \(B, I, 3\)"),
        ((2, 6, 3), (3, 5), {}, r"weight \(3, 5\) does not fit: expected \(J, F, D\) or \(I, J, F, D\)"),
        ((2, 6, 3), (7, 4, 3, 5), {}, r"u \(2, 6, 3\) does not fit: expected \(B, 7, 3\)"),
        ((2, 6, 3), (4, 3, 5), {"mask": torch.ones(2, 5).bool()}, r"mask \(2, 5\) does not fit: expected \(2, 6\)"),
        ((2, 6, 3), (4, 3, 5), {"mask": torch.ones(2, 6)}, r"mask is torch.float32: expected torch.bool"),
        ((2, 6, 3), (4, 3, 5), {"bias": torch.ones(2, 5)}, r"bias \(2, 5\) .* expected \(4, 5\) or \(2, 4, 5\)"),
        ((2, 6, 3), (4, 3, 5), {"prior": torch.ones(3)}, r"prior \(3,\) .* what broadcasts to \(2, 6, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named_in_one_sentence(name, u, weight, options, says):
    with pytest.raises(ValueError, match=says):
        ROUTINGS[name](4, 5, 3)(torch.zeros(u), torch.zeros(weight), **options)


@pytest.mark.parametrize(
    "rule, says",
    [
        (EMRouting(3), "out_capsules=4: the routing rule was built for 3"),
        (SelfAttentionRouting(3, 5), "out_capsules=4: the routing rule was built for 3"),
        (SelfAttentionRouting(4, 6), "out_features=5: the routing rule was built for 6"),
        (InvertedAttentionRouting(6), "out_features=5: the routing rule was built for 6"),
    ],
)
def test_another_layers_rule_is_refused(rule, says):
    with pytest.raises(ValueError, match=says):
        CapsuleLayer(3, 4, 5, routing=rule)(torch.zeros(2, 6, 3))
