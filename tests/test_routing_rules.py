"""Rules beside dynamic routing: against plain loops written from the papers, and by what every rule must hold."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
from capslib.layers.self_attention import exponential_squash

# The same examples on every run.
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
FEWER = settings(PROPERTY, max_examples=10)
NEW = ["em", "self_attention", "inverted_attention"]
every_rule = pytest.mark.parametrize("name", NEW)
shared_and_own = pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.as_tensor(scale * np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def lengths_mask(lengths: list[int], steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


def build(name: str, J: int, D: int, passes: int = 3, seed: int = 7, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The rule with parameters as after some training, so that none of them is zero or one."""
    rule = ROUTINGS[name](J, D, passes).to(dtype)
    with torch.no_grad():
        for number, parameter in enumerate(rule.parameters()):
            parameter += draw(*parameter.shape, seed=seed + number, scale=0.3, dtype=dtype)
    return rule


def inputs(B=3, I=6, F=4, J=3, D=5, *, own=False, seed=0, scale=0.5, dtype=torch.float64):
    weight = draw(*((I,) if own else ()), J, F, D, seed=seed + 1, scale=scale, dtype=dtype)
    return draw(B, I, F, seed=seed, dtype=dtype), weight


# --- The papers' equations in plain loops; inputs that are masked are not there at all


def normalized(logs) -> np.ndarray:
    powers = [math.exp(x - max(logs)) for x in logs]
    return np.array([p / math.fsum(powers) for p in powers])


def em_in_loops(rule, V, inputs, prior) -> tuple[np.ndarray, np.ndarray]:
    """Hinton et al. 2018, procedure 1, for one clip; the amount of evidence in units of an equal share."""
    I, J, D = V.shape
    beta_u, beta_a = (b.detach().numpy() for b in (rule.beta_u, rule.beta_a))
    logs, coupling, v = {}, np.zeros((I, J)), np.zeros((J, D))
    for i in inputs:
        logs[i] = prior[i] - np.logaddexp.reduce(prior[i])
    for t in range(rule.num_iterations):
        mean, variance, activation = np.zeros((J, D)), np.full((J, D), rule.variance_floor), np.zeros(J)
        for j in range(J):
            among = normalized([logs[i][j] for i in inputs]) if inputs else []  # R_ij / sum_i R_ij
            for h in range(D):
                mean[j, h] = math.fsum(w * V[i, j, h] for w, i in zip(among, inputs, strict=True))
                variance[j, h] += math.fsum(
                    w * (V[i, j, h] - mean[j, h]) ** 2 for w, i in zip(among, inputs, strict=True)
                )
            shares = math.fsum(math.exp(logs[i][j]) for i in inputs)
            cost = sum((beta_u[j] + math.log(math.sqrt(variance[j, h]))) * shares for h in range(D))
            temperature = rule.inverse_temperature * (t + 1) / rule.num_iterations
            x = temperature * (beta_a[j] - cost * J / (D * max(1, len(inputs))))
            activation[j] = 1 / (1 + math.exp(-x))
        for i in inputs:
            coupling[i] = np.exp(logs[i])
            density = [
                math.log(activation[j])
                - sum(
                    (V[i, j, h] - mean[j, h]) ** 2 / (2 * variance[j, h])
                    + math.log(math.sqrt(2 * math.pi * variance[j, h]))
                    for h in range(D)
                )
                for j in range(J)
            ]
            logs[i] = prior[i] + np.array(density)
            logs[i] = logs[i] - np.logaddexp.reduce(logs[i])
    for j in range(J):
        v[j] = activation[j] * mean[j] / math.sqrt(mean[j] @ mean[j] + 1e-12)
    return v, coupling


def self_attention_in_loops(rule, V, inputs, prior) -> tuple[np.ndarray, np.ndarray]:
    """Mazzia et al. 2021, with the I x I attention matrices that the module avoids."""
    I, J, D = V.shape
    log_prior = np.broadcast_to(rule.log_prior.detach().numpy(), (I, J))
    coupling, v = np.zeros((I, J)), np.zeros((J, D))
    A = {(i, k, j): V[i, j] @ V[k, j] / math.sqrt(D) for i in inputs for k in inputs for j in range(J)}
    for i in inputs:
        coupling[i] = normalized([prior[i, j] + math.fsum(A[i, k, j] for k in inputs) for j in range(J)])
    for j in range(J):
        s = sum(((coupling[i, j] + log_prior[i, j]) * V[i, j] for i in inputs), np.zeros(D))
        length = np.linalg.norm(s)
        v[j] = (1 - 1 / math.exp(length)) * s / length if length else 0
    return v, coupling


def inverted_attention_in_loops(rule, V, inputs, prior) -> tuple[np.ndarray, np.ndarray]:
    """Tsai et al. 2020, procedure 1; Sabour's squash on the last sum."""
    I, J, D = V.shape
    gain, bias = rule.norm.weight.detach().numpy(), rule.norm.bias.detach().numpy()
    coupling, v, p = np.zeros((I, J)), np.zeros((J, D)), np.zeros((J, D))
    for _ in range(rule.num_iterations):
        for i in inputs:
            coupling[i] = normalized([prior[i, j] + p[j] @ V[i, j] for j in range(J)])
        for j in range(J):
            s = sum((coupling[i, j] * V[i, j] for i in inputs), np.zeros(D))
            p[j] = gain * (s - s.mean()) / math.sqrt(s.var() + rule.norm.eps) + bias
            v[j] = np.linalg.norm(s) / (1 + s @ s) * s
    return v, coupling


LOOPS = {
    "em": em_in_loops,
    "self_attention": self_attention_in_loops,
    "inverted_attention": inverted_attention_in_loops,
}


def in_loops(name, rule, u, weight, mask=None, prior=None) -> tuple[np.ndarray, np.ndarray]:
    B, I, _ = u.shape
    J = weight.shape[-3]
    prior = np.zeros((B, I, J)) if prior is None else np.broadcast_to(prior.numpy(), (B, I, J))
    v, coupling = [], []
    for b in range(B):
        valid = [i for i in range(I) if mask is None or mask[b, i]]
        V = np.zeros((I, J, weight.shape[-1]))
        for i in range(I):
            for j in range(J):
                V[i, j] = u[b, i].numpy() @ (weight[j] if weight.dim() == 3 else weight[i, j]).numpy()
        one_v, one_coupling = LOOPS[name](rule, V, valid, prior[b])
        v.append(one_v), coupling.append(one_coupling)
    return np.array(v), np.array(coupling)


@st.composite
def cases(draw_from) -> dict:
    B, I, F, J = (draw_from(st.integers(1, 5)) for _ in range(4))
    D = draw_from(st.integers(2, 5))
    seed = draw_from(st.integers(0, 999))
    u, weight = inputs(
        B, I, F, J, D, own=draw_from(st.booleans()), seed=seed, scale=draw_from(st.sampled_from([0.1, 0.5, 2.0]))
    )
    masks = st.lists(st.lists(st.booleans(), min_size=I, max_size=I), min_size=B, max_size=B)
    prior = draw_from(st.sampled_from([None, (J,), (I, J), (B, I, J), (B, 1, J)]))
    return {
        "u": u,
        "weight": weight,
        "mask": torch.tensor(draw_from(masks)) if draw_from(st.booleans()) else None,
        "prior": None if prior is None else draw(*prior, seed=seed + 2),
    }


@every_rule
@PROPERTY
@given(case=cases(), passes=st.integers(1, 4), seed=st.integers(0, 99))
def test_equals_loops(name, case, passes, seed):
    rule = build(name, *case["weight"].shape[-3::2], passes, seed)
    v, coupling = rule(**case, return_coupling=True)
    expected_v, expected_coupling = in_loops(name, rule, **case)
    np.testing.assert_allclose(v.detach().numpy(), expected_v, rtol=0, atol=1e-10)
    np.testing.assert_allclose(coupling.detach().numpy(), expected_coupling, rtol=0, atol=1e-10)
    torch.testing.assert_close(rule(**case), v)
    assert (v.norm(dim=-1) < 1).all()


@every_rule
@FEWER
@given(case=cases())
def test_coupling_sums_to_one_over_outputs_and_is_zero_at_masked_inputs(name, case):
    _, coupling = build(name, *case["weight"].shape[-3::2])(**case, return_coupling=True)
    mask = case["mask"]
    total = torch.ones(coupling.shape[:2]).double() if mask is None else mask.double()
    torch.testing.assert_close(coupling.sum(-1), total)
    assert (coupling >= 0).all()


@every_rule
@shared_and_own
def test_softmax_is_over_outputs_and_not_over_inputs(name, own):
    u, weight = inputs(I=7, own=own)
    _, coupling = build(name, 3, 5)(u, weight, return_coupling=True)
    torch.testing.assert_close(coupling.sum(2), torch.ones(3, 7).double())
    assert (coupling.sum(1) - 1).abs().min() > 0.01


# --- Batches, masks, padding


@every_rule
@FEWER
@given(case=cases())
def test_batch_mates_change_nothing(name, case):
    rule = build(name, *case["weight"].shape[-3::2])
    together = rule(**case)
    for row in range(len(together)):
        alone = dict(case)
        for key in ("u", "mask", "prior"):
            value = case[key]
            whole = value is not None and (key != "prior" or value.dim() == 3)
            alone[key] = value[row : row + 1] if whole else value
        torch.testing.assert_close(rule(**alone)[0], together[row], rtol=0, atol=1e-10)


@every_rule
@pytest.mark.parametrize("dtype, within", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@shared_and_own
def test_a_padded_clip_gives_the_capsules_of_the_clip_alone(name, own, dtype, within):
    lengths = [9, 4, 1, 0]
    u, weight = inputs(4, 9, own=own, dtype=dtype)
    u[1, 6] = math.nan  # whatever pads
    rule = build(name, 3, 5, dtype=dtype)
    together, coupling = rule(u, weight, mask=lengths_mask(lengths, 9), return_coupling=True)
    for row, length in enumerate(lengths):
        alone, shares = rule(u[row : row + 1, :length], weight[:length] if own else weight, return_coupling=True)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=within)
        torch.testing.assert_close(coupling[row, :length], shares[0], rtol=0, atol=within)
        assert (coupling[row, length:] == 0).all()


@every_rule
@shared_and_own
def test_padding_gets_no_gradient(name, own):
    u, weight = inputs(2, own=own)
    u[1, 4:] = math.inf
    u.requires_grad_(), weight.requires_grad_()
    build(name, 3, 5)(u, weight, mask=lengths_mask([6, 3], 6)).norm(dim=-1).sum().backward()
    assert (u.grad[1, 3:] == 0).all() and (u.grad[1, :3] != 0).any()
    assert weight.grad.isfinite().all()


@every_rule
@shared_and_own
def test_every_valid_input_counts(name, own):
    """In one public EM the activations of the inputs cancel, and what is switched off goes on voting."""
    u, weight = inputs(1, own=own)
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case", ["silence", "all masked", "one row masked", "same everywhere", "no inputs", "no clips"]
)
@shared_and_own
def test_nothing_to_route_is_finite_with_finite_gradients(name, case, own, dtype):
    I, B = 0 if case == "no inputs" else 6, 0 if case == "no clips" else 2
    u, weight = inputs(B, I, own=own, dtype=dtype)
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


# --- Long clips, precision, compilation, files


@pytest.mark.parametrize("name", ROUTINGS)
def test_long_clips_do_not_saturate(name):
    torch.manual_seed(0)
    layer = CapsuleLayer(128, 10, 16, routing=ROUTINGS[name](10, 16, 3))
    u = draw(4, 900, 128, dtype=torch.float32).tanh()
    lengths = layer(u).norm(dim=-1)
    assert (lengths > 0.05).all() and (lengths < 0.99).all()
    MarginLoss()(lengths, torch.arange(4)).backward()
    assert 0.1 < layer.weight.grad.norm() < 1e3


@every_rule
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


@pytest.mark.parametrize("name", ["self_attention", "inverted_attention"])
def test_memory_grows_with_the_inputs_and_not_with_their_pairs_or_votes(name):
    B, I, F, J, D = 2, 700, 8, 6, 8
    sizes = []
    u, weight = inputs(B, I, F, J, D, dtype=torch.float32)
    rule = build(name, J, D, dtype=torch.float32)
    u.requires_grad_(), weight.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        rule(u, weight, mask=torch.ones(B, I, dtype=torch.bool)).sum().backward()
    assert max(sizes) <= B * I * max(F, J)


@every_rule
@shared_and_own
def test_passes_gradcheck(name, own):
    u, weight = inputs(2, 5, 3, 3, 4, own=own)
    prior, mask = draw(3, seed=2), lengths_mask([5, 2], 5)
    rule = build(name, 3, 4)
    parameters = dict(rule.named_parameters())

    def call(u, weight, prior, *values):
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(rule, named, (u, weight, mask, prior, True))

    leaves = [t.detach().clone().requires_grad_() for t in (u, weight, prior, *parameters.values())]
    assert torch.autograd.gradcheck(call, leaves)


@every_rule
@shared_and_own
def test_bf16_autocast_computes_in_float32(name, own):
    """Exact for what goes in; bfloat16 steps, off by up to 1 / 256, move a capsule by less than 0.03."""
    u, weight = inputs(4, 20, 16, 5, 8, own=own, scale=0.1, dtype=torch.float32)
    mask = lengths_mask([20, 3, 0, 11], 20)
    rule = build(name, 5, 8, dtype=torch.float32)
    exact = rule(u, weight, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, coupling = rule(u, weight, mask=mask, return_coupling=True)
        rounded = rule(u.bfloat16(), weight, mask=mask)
    assert v.dtype == coupling.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(v, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=3e-2)


@every_rule
def test_half_precision_modules_give_half_precision_scores_below_one(name):
    u, weight = inputs(4, 900, 16, 5, 8, dtype=torch.float32)
    rule = build(name, 5, 8, dtype=torch.float32).bfloat16()
    v = rule(u.bfloat16(), weight.bfloat16())
    assert v.dtype == torch.bfloat16 and v.isfinite().all() and (v.norm(dim=-1) < 1).all()


@every_rule
@shared_and_own
def test_compiles_whole(name, own):
    torch.manual_seed(0)
    layer = CapsuleLayer(4, 3, 5, in_capsules=6 if own else None, prior=True, routing=build(name, 3, 5)).double()
    u, mask = draw(2, 6, 4), lengths_mask([6, 2], 6)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(u, mask), layer(u, mask))
    compiled(u, mask).sum().backward()


@every_rule
def test_survives_files_and_copies(name, tmp_path):
    layer = CapsuleLayer(4, 3, 5, routing=build(name, 3, 5)).double()
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = CapsuleLayer(4, 3, 5, routing=ROUTINGS[name](3, 5, 3)).double()
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    u = draw(2, 6, 4)
    torch.testing.assert_close(other(u), layer(u), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(u), layer(u), rtol=0, atol=0)


# --- Training


def separable(kind: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of 12 steps of 6 features in three classes, by where a clip lies or by which features are quiet in it."""
    y = torch.arange(60) % 3
    noise = draw(60, 12, 6, seed=seed, dtype=torch.float32)
    pair = nn.functional.one_hot(y, 3).repeat_interleave(2, dim=1)[:, None].float()
    return (0.3 * noise + pair if kind == "place" else noise * (1 - 0.9 * pair)), y


@pytest.mark.parametrize(
    "name, kind, own",
    [(name, "place", own) for name in ROUTINGS for own in (False, True) if (name, own) != ("em", False)]
    + [("em", "quiet", False)],
)
def test_fits_a_separable_problem(name, kind, own):
    torch.manual_seed(0)
    layer = CapsuleLayer(6, 3, 4, in_capsules=12 if own else None, routing=ROUTINGS[name](3, 4, 3))
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


@every_rule
@shared_and_own
def test_trains_every_parameter(name, own):
    layer = CapsuleLayer(4, 3, 5, in_capsules=6 if own else None, prior=True, routing=ROUTINGS[name](3, 5, 3))
    layer(draw(2, 6, 4, dtype=torch.float32)).norm(dim=-1)[:, 0].sum().backward()
    assert all((p.grad != 0).any() for p in layer.parameters())


# --- What is particular to one rule


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


def test_em_with_shared_matrices_scores_how_a_clip_varies_and_not_where_it_lies():
    u, weight = inputs()
    own = weight + draw(6, *weight.shape, seed=9)
    rule = build("em", 3, 5)
    moved = u + draw(3, 1, 4, seed=8)
    torch.testing.assert_close(rule(moved, weight).norm(dim=-1), rule(u, weight).norm(dim=-1))
    assert (rule(moved, own).norm(dim=-1) - rule(u, own).norm(dim=-1)).abs().max() > 0.01


def test_em_keeps_outputs_alive_that_get_hardly_any_share():
    u, weight = inputs(dtype=torch.float32)
    prior = torch.tensor([0.0, -300.0, 0.0])  # shares of exp(-300) are zero in float32
    u.requires_grad_()
    v, coupling = EMRouting(3)(u, weight, prior=prior, return_coupling=True)
    v.norm(dim=-1).sum().backward()
    assert (coupling[..., 1] == 0).all() and v.isfinite().all() and u.grad.isfinite().all()
    torch.testing.assert_close(v[:, 1].norm(dim=-1), torch.full((3,), 0.5))  # no evidence, so sigmoid(beta_a)


def test_self_attention_adds_its_log_prior_after_the_softmax():
    u, weight = inputs()
    rule = SelfAttentionRouting(3, 5).double()
    before, coupling = rule(u, weight, return_coupling=True)
    with torch.no_grad():
        rule.log_prior[1] = 0.5
    after, same = rule(u, weight, return_coupling=True)
    torch.testing.assert_close(same, coupling)
    torch.testing.assert_close(after[:, ::2], before[:, ::2])
    s = torch.einsum("bi,bif,fd->bd", coupling[..., 1] + 0.5, u, weight[1])
    torch.testing.assert_close(after[:, 1], exponential_squash(s))


def test_self_attention_takes_a_log_prior_for_every_input():
    u, weight = inputs(own=True)
    rule, single = SelfAttentionRouting(3, 5, in_capsules=6).double(), SelfAttentionRouting(3, 5).double()
    assert rule.log_prior.shape == (6, 3)
    with torch.no_grad():
        single.log_prior += torch.tensor([0.1, -0.2, 0.3])
        rule.log_prior += single.log_prior
    torch.testing.assert_close(rule(u, weight), single(u, weight))
    with torch.no_grad():
        rule.log_prior += draw(6, 3)
    np.testing.assert_allclose(rule(u, weight).detach(), in_loops("self_attention", rule, u, weight)[0], atol=1e-10)
    with pytest.raises(ValueError, match="in_capsules=5: this SelfAttentionRouting was built for 6"):
        rule(u[:, :5], weight[:5])


def test_exponential_squash_is_the_papers():
    s = draw(50, 4, scale=3.0)
    v, length = exponential_squash(s), s.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(v, (1 - 1 / length.exp()) * s / length)
    assert torch.autograd.gradcheck(exponential_squash, s[:4].clone().requires_grad_())
    zero = torch.zeros(2, 3, requires_grad=True)
    exponential_squash(zero).sum().backward()
    torch.testing.assert_close(zero.grad, torch.ones(2, 3))  # the identity, near zero


@shared_and_own
def test_inverted_attention_with_one_pass_is_uniform_routing(own):
    u, weight = inputs(own=own)
    mask = lengths_mask([6, 2, 4], 6)
    v, coupling = build("inverted_attention", 3, 5, 1)(u, weight, mask=mask, return_coupling=True)
    torch.testing.assert_close(v, route(u, weight, 1, mask=mask))
    torch.testing.assert_close(coupling, mask[..., None] / torch.full((3,), 3.0).double())


def test_inverted_attention_starts_each_pass_from_poses_alone():
    """Not accumulated as in dynamic routing: the last coupling follows from the pose before it."""
    u, weight = inputs()
    rules = [build("inverted_attention", 3, 5, passes) for passes in (2, 3)]
    _, earlier = rules[0](u, weight, return_coupling=True)
    _, last = rules[1](u, weight, return_coupling=True)
    votes = torch.einsum("bif,jfd->bijd", u, weight)
    pose = rules[1].norm(torch.einsum("bij,bijd->bjd", earlier, votes))
    torch.testing.assert_close(last, torch.einsum("bijd,bjd->bij", votes, pose).softmax(-1))


# --- Names and refusals


def test_rules_have_names():
    assert {"dynamic", "uniform", *NEW} <= set(ROUTINGS)
    kinds = {"dynamic": DynamicRouting, "uniform": DynamicRouting, "em": EMRouting}
    kinds |= {"self_attention": SelfAttentionRouting, "inverted_attention": InvertedAttentionRouting}
    assert all(isinstance(ROUTINGS[name](3, 5, 2), kind) for name, kind in kinds.items())
    assert all(ROUTINGS[name](3, 5, 2).num_iterations == 2 for name in ("dynamic", "em", "inverted_attention"))
    u, weight = inputs()
    torch.testing.assert_close(ROUTINGS["uniform"](3, 5, 4)(u, weight), route(u, weight, 1))


def test_rules_own_few_parameters():
    owned = {name: sum(p.numel() for p in builder(10, 16, 3).parameters()) for name, builder in ROUTINGS.items()}
    expected = {"dynamic": 0, "uniform": 0, "em": 20, "self_attention": 10, "inverted_attention": 32}
    assert {name: owned[name] for name in expected} == expected


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: EMRouting(0), "out_capsules=0: must be at least 1"),
        (lambda: EMRouting(3, 0), "num_iterations=0: routing needs at least one pass"),
        (lambda: EMRouting(3, variance_floor=0.0), "variance_floor=0.0: must be above 0"),
        (lambda: EMRouting(3, inverse_temperature=-1.0), "inverse_temperature=-1.0: must be above 0"),
        (lambda: SelfAttentionRouting(3, 0), "out_features=0: must be at least 1"),
        (lambda: SelfAttentionRouting(3, 5, in_capsules=0), "in_capsules=0: must be at least 1"),
        (lambda: InvertedAttentionRouting(1), "out_features=1: LayerNorm needs poses of at least 2 components"),
        (lambda: InvertedAttentionRouting(5, 0), "num_iterations=0: routing needs at least one pass"),
    ],
)
def test_sizes_out_of_range_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@every_rule
@pytest.mark.parametrize(
    "u, weight, mask, says",
    [
        ((2, 6, 3), (4, 2, 5), None, r"u \(2, 6, 3\) and weight \(4, 2, 5\) do not fit"),
        ((6, 3), (4, 3, 5), None, r"u \(6, 3\) and weight .* expected \(B, I, F\)"),
        ((2, 6, 3), (7, 4, 3, 5), None, r"weight is for 7 input capsules, u has 6"),
        ((2, 6, 3), (4, 3, 5), torch.ones(2, 5).bool(), r"mask \(2, 5\) does not fit .* expected \(2, 6\)"),
        ((2, 6, 3), (4, 3, 5), torch.ones(2, 6), r"mask is torch.float32: give booleans"),
    ],
)
def test_shapes_that_do_not_fit_are_told_in_one_sentence(name, u, weight, mask, says):
    with pytest.raises(ValueError, match=says):
        ROUTINGS[name](4, 5, 3)(torch.zeros(u), torch.zeros(weight), mask=mask)


@pytest.mark.parametrize(
    "rule, says",
    [
        (EMRouting(3), "out_capsules=4: this EMRouting was built for 3"),
        (SelfAttentionRouting(3, 5), "out_capsules=4: this SelfAttentionRouting was built for 3"),
        (SelfAttentionRouting(4, 6), "out_features=5: this SelfAttentionRouting was built for 6"),
        (InvertedAttentionRouting(6), "out_features=5: this InvertedAttentionRouting was built for 6"),
    ],
)
def test_another_layers_rule_is_refused(rule, says):
    with pytest.raises(ValueError, match=says):
        CapsuleLayer(3, 4, 5, routing=rule)(torch.zeros(2, 6, 3))
