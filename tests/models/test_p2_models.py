"""P1's and P2's systems: their sizes to the last parameter, and what a user would notice of how they work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from capslib import models
from capslib.errors import CapslibError
from capslib.layers import MarginLoss
from capslib.models import AudioModel
from capslib.models.p2_parts import BiRecurrent, ConvolutionalTrunk

PUBLISHED = {  # P2 table II: four classes, 512 bins
    "cnn_gru": 833_012,
    "cnn_cap": 131_110_832,
    "lstm_cap": 17_607_492,
    "cnn_seqcap": 703_540,
    "cnn_reccap": 708_148,
    "cnn_gru_seqcap": 1_523_448,
    "cnn_gru_reccap": 1_528_056,
}
SMALL = {"cnn_cap": {"num_frames": 120}, "lstm_cap": {"num_frames": 120, "hidden_features": 8}}
NAMES = sorted([*PUBLISHED, "cnn_gru_att", "ref15_cnn", "ref15_cnn_lstm"])
HYBRIDS = ["cnn_gru_seqcap", "cnn_gru_reccap"]
BINS, CLASSES = 40, 4
LENGTHS = [97, 7, 120, 41, 1, 40]  # several windows of 40 frames, one exactly, and less than one

each = pytest.mark.parametrize("name", NAMES)


def fresh(name: str, **options) -> AudioModel:
    torch.manual_seed(0)
    return models.build(name, BINS, CLASSES, **SMALL.get(name, {}), **options).eval()


def batch(lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.utils.rnn.pad_sequence([torch.randn(n, BINS) for n in lengths], batch_first=True), torch.tensor(lengths)


@pytest.mark.parametrize("name, published", PUBLISHED.items())
def test_parameters_are_those_of_p2_to_the_last_digit(name, published):
    with torch.device("meta"):  # counted without memory: CNN_Cap alone would take half a gigabyte
        model = models.build(name, 512, 4)
    assert models.count_parameters(model) == published
    assert not hasattr(model, "trunk") or models.count_parameters(model.trunk) == 13_104
    assert all(p.requires_grad for p in model.parameters())


@each
def test_scores_of_a_padded_batch_are_those_of_each_clip_alone(name):
    model, (x, lengths) = fresh(name), batch()
    with torch.inference_mode():
        together = model(x, lengths)
        assert together.shape == (len(LENGTHS), CLASSES) and together.isfinite().all()
        assert together.std(0).min() > 1e-6  # else nothing of the clips would be in the scores
        for row, length in enumerate(LENGTHS):
            alone = model(x[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
        noisy = torch.where(
            torch.arange(200)[:, None] < lengths[:, None, None], nn.functional.pad(x, (0, 0, 0, 80)), 9.0
        )
        torch.testing.assert_close(model(noisy, lengths), together, rtol=0, atol=1e-5)


@each
def test_every_part_learns_and_the_loss_falls(name):
    model, (x, lengths) = fresh(name, **{"dropout": 0.0} if name != "cnn_cap" else {}).train(), batch()
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = {"cross_entropy": nn.CrossEntropyLoss(), "margin": MarginLoss()}[model.loss]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-4), []  # CNN_Cap overshoots at 1e-3
    for step in range(4):
        optimizer.zero_grad()
        losses.append(model.objective(x, lengths, targets, loss))
        losses[-1].backward()
        for parameter_name, parameter in model.named_parameters() if step == 0 else ():
            assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), parameter_name
        optimizer.step()
    assert losses[-1] < losses[0]


@each
def test_weights_load_and_bf16_autocast_stays_near(name):
    model, (x, lengths) = fresh(name), batch([50, 3])
    torch.manual_seed(9)
    other = models.build(name, BINS, CLASSES, **SMALL.get(name, {})).eval()
    with torch.inference_mode():
        exact = model(x, lengths)
        assert not torch.allclose(other(x, lengths), exact)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(x, lengths), exact)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(x, lengths)
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05)


@each
def test_embedding_is_one_vector_a_clip(name):
    model, (x, lengths) = fresh(name), batch([50, 3])
    with torch.inference_mode():
        embedded = model.embed(x, lengths)
    assert embedded.dim() == 2 and len(embedded) == 2 and not torch.allclose(embedded[0], embedded[1])


@each
def test_bad_features_are_named(name):
    model, (x, lengths) = fresh(name), batch([50, 3])
    with pytest.raises(CapslibError, match=rf"features \(2, 50, {BINS - 1}\) do not fit .* {BINS} bins"):
        model(x[..., 1:], lengths)
    with pytest.raises(CapslibError, match=r"features \(2, 0, \d+\) do not fit .* with a frame at least"):
        model(x[:, :0], torch.tensor([0, 0]))
    x[1, 2, 0] = torch.nan
    with pytest.raises(CapslibError, match=r"clips \[1\] of the batch have frames that are not finite"):
        model(x, lengths)
    x[1, 2:] = torch.nan
    assert model(x, torch.tensor([50, 2])).isfinite().all()  # what pads is nobody's frame


@pytest.mark.parametrize("name", ["cnn_cap", "lstm_cap"])
def test_systems_of_fixed_length_use_the_first_frames_of_a_longer_clip(name):
    model, (x, lengths) = fresh(name), batch([150, 121, 30])
    with torch.inference_mode():
        scores = model(x, lengths)
        torch.testing.assert_close(scores, model(x[:, :120], lengths.clamp_max(120)), rtol=0, atol=1e-6)
        assert not torch.allclose(scores, model(x[:, :110], lengths.clamp_max(110)), atol=1e-6)


def test_cnn_cap_scores_are_lengths_of_capsules():
    model, (x, lengths) = fresh("cnn_cap"), batch()
    with torch.inference_mode():
        scores, vectors = model(x, lengths), model.capsule_vectors(x, lengths)
    assert model.loss == "margin" and (scores < 1).all()
    torch.testing.assert_close(scores, vectors.square().sum(-1).sqrt())


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_mix_probabilities_and_add_up_losses(name):
    model, (x, lengths) = fresh(name), batch()
    loss, targets = nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, 3, 0, 1])
    share = 0.6
    with torch.inference_mode():
        capsules, gru = model.branches(x, lengths)
        mixed = share * capsules.softmax(-1) + (1 - share) * gru.softmax(-1)
        torch.testing.assert_close(model(x, lengths).exp(), mixed)
        total = model.objective(x, lengths, targets, loss)
    torch.testing.assert_close(total, loss(capsules, targets) + loss(gru, targets))


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_share_a_trunk_and_nothing_else(name):
    model, (x, lengths) = fresh(name), batch()
    model.branches(x, lengths)[1].sum().backward()
    assert all(p.grad is None for p in model.capsule_head.parameters())
    assert all(p.grad is not None for p in model.trunk.parameters())


@pytest.mark.parametrize("kind, layer", [("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_one_bias_is_pytorchs_layer_with_the_second_held_at_zero(kind, layer):
    torch.manual_seed(0)
    ours, theirs = BiRecurrent(kind, 5, 3), layer(5, 3, batch_first=True, bidirectional=True)
    for suffix, direction in (("", ours.ahead), ("_reverse", ours.back)):
        for name, parameter in (("weight_ih", "inputs"), ("weight_hh", "states"), ("bias_ih", "bias")):
            nn.init.normal_(direction[parameter])
            getattr(theirs, f"{name}_l0{suffix}").data.copy_(direction[parameter].data)
        nn.init.zeros_(getattr(theirs, f"bias_hh_l0{suffix}"))
    x = torch.randn(2, 6, 5)
    steps, summary = ours(x, torch.tensor([6, 6]))
    expected, state = theirs(x)
    torch.testing.assert_close(steps, expected)
    torch.testing.assert_close(summary, torch.cat(list(state if kind == "gru" else state[0]), -1))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_trunk_is_its_layers_one_after_the_other():
    """P2 table I with the pooling that its counts ask for, written with PyTorch's own padding and pooling."""
    torch.manual_seed(0)
    trunk, x = ConvolutionalTrunk(BINS, ((1, 2), (2, 2), (2, 1))).double(), torch.randn(2, 30, BINS).double()
    for p in trunk.parameters():
        nn.init.normal_(p, std=0.3)
    both = [
        nn.functional.conv2d(x.unsqueeze(1), part.weight, part.bias, padding="same")
        for part in (trunk.wide, trunk.tall)
    ]
    y = nn.functional.max_pool2d(torch.cat(both, 1).relu(), (1, 2))
    y = nn.functional.max_pool2d(trunk.third(y).relu(), (2, 2), ceil_mode=True)
    y = nn.functional.max_pool2d(trunk.fourth(y).relu(), (2, 1), ceil_mode=True)
    found, steps = trunk(x, torch.tensor([30, 30]))
    torch.testing.assert_close(found, y)
    assert found.shape == (2, 16, 8, BINS // 4) and steps.tolist() == [8, 8]


@pytest.mark.parametrize("system, gates", [("cnn_gru_reccap", 3), ("lstm_cap", 4)])
def test_weights_start_from_glorot_range_and_biases_from_zero(system, gates):
    torch.manual_seed(0)
    for name, parameter in models.build(system, 512, 4).named_parameters():
        if "bias" in name and gates == 4 and ("ahead" in name or "back" in name):
            assert (parameter == torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(128)).all(), (
                "the forget gate's is one"
            )
        elif "bias" in name:
            assert (parameter == 0).all(), name
        elif parameter.dim() == 2 or "trunk" in name:
            own = parameter.chunk(gates)[0] if "inputs" in name or "states" in name else parameter  # gate by gate
            bound = (6 / sum(nn.init._calculate_fan_in_and_fan_out(own))) ** 0.5
            assert 0.9 < parameter.abs().max() / bound <= 1.0, name


@pytest.mark.parametrize(
    "options, says",
    [
        ({"window": 42}, r"window=42 frames: give a multiple of 4"),
        ({"shift": 0}, r"shift=0 frames: give a multiple of 4"),
        ({"pools": ((1, 2), (2, 2))}, r"give three pairs"),
        ({"wimdow": 40}, r"did you mean 'window'"),
    ],
)
def test_options_that_do_not_fit_are_named(options, says):
    with pytest.raises(CapslibError, match=says):
        models.build("cnn_seqcap", BINS, CLASSES, **options)


def test_the_share_of_a_branch_lies_between_0_and_1():
    with pytest.raises(CapslibError, match=r"weight=1\.5"):
        models.build("cnn_gru_seqcap", BINS, CLASSES, weight=1.5)


@pytest.mark.parametrize(
    "options", [{"pool_before": False}, {"num_iterations": 1}, {"window": 20, "shift": 8}, {"squashed": False}]
)
def test_options_of_the_capsules_change_scores_and_keep_the_size(options):
    plain, other, (x, lengths) = fresh("cnn_seqcap"), fresh("cnn_seqcap", **options), batch()
    if "window" not in options:
        assert models.count_parameters(plain) == models.count_parameters(other)
    with torch.inference_mode():
        assert not torch.allclose(plain(x, lengths), other(x, lengths), atol=1e-5)
