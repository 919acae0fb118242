"""The margin loss against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from draws import PROPERTY, SIZES, draw
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capslib.layers import MarginLoss


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
