"""Recurrent layers and normalization against torch's own without padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from draws import PROPERTY, SIZES, draw, lengths_mask
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capslib.layers import BiLSTM, MaskedBatchNorm, Standardize, reverse


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
    """Forget gates start open and recurrent matrices preserve lengths, in both directions."""
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
    torch.testing.assert_close(ours(x, mask)[:1, :2], ours(x[:1, :2], mask[:1, :2]))


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
