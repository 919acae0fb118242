"""Learning rates that change: P2's rule, step by step, on losses that are known."""

from __future__ import annotations

import pytest
import torch

from capslib.training.optimizers import SCHEDULES, LossDecay

START = 1e-3


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], START)


def rates(losses: list[tuple[float, int]], **options: object) -> list[float]:
    """The rate after each (loss, epoch)."""
    adam = optimizer()
    schedule, seen = LossDecay(adam, **options), []
    for loss, epoch in losses:
        schedule.step(loss, epoch)
        seen.append(adam.param_groups[0]["lr"])
    return seen


def test_each_tenfold_fall_takes_the_next_rate_and_the_last_one_stays():
    losses = [(1.0, 1), (0.1, 4), (0.05, 4), (0.01, 4), (0.001, 5), (1e-9, 6), (1e-12, 7)]
    assert rates(losses, window=1) == [START, 5e-4, 5e-4, 2e-4, 1e-4, 1e-4, 1e-4]


def test_the_rate_is_held_for_the_first_epochs():
    assert rates([(1.0, 1), (0.01, 2), (0.01, 3), (0.01, 4)], window=1)[:3] == [START] * 3
    assert rates([(1.0, 1), (0.01, 2)], window=1, held_epochs=1)[-1] == 5e-4


def test_a_great_fall_takes_one_rate_a_step():
    assert rates([(1.0, 1), (1e-5, 4), (1e-5, 4), (1e-5, 4)], window=1) == [START, 5e-4, 2e-4, 1e-4]


def test_the_reference_is_the_first_full_window_and_means_are_of_the_last():
    """Mean of (3, 1) is 2: two steps of 0.2 are needed. One leaves (1, 0.2) at 0.6, and a loss of 30 undoes it."""
    assert rates([(3.0, 1), (1.0, 1), (0.2, 4), (0.2, 4)], window=2)[-2:] == [START, 5e-4]
    assert rates([(3.0, 1), (1.0, 1), (0.2, 4), (30.0, 4)], window=2)[-1] == START
    assert rates([(100.0, 4), (0.01, 4), (0.01, 4)], window=4)[-1] == START  # no window is full yet


def test_a_loss_that_rises_again_gives_no_rate_back():
    assert rates([(1.0, 1), (0.1, 4), (5.0, 4), (5.0, 5)], window=1)[1:] == [5e-4] * 3


def test_all_groups_of_parameters_get_the_rate():
    adam = torch.optim.Adam([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)], START)
    schedule = LossDecay(adam, window=1)
    for loss, epoch in ((1.0, 1), (0.1, 4)):
        schedule.step(loss, epoch)
    assert [group["lr"] for group in adam.param_groups] == [5e-4, 5e-4]


def test_papers_window_and_rates_are_the_defaults():
    seen = rates([(1.0, 1)] * 100 + [(0.01, 4)] * 100)
    # A mean of 100 falls below a tenth once 91 of its losses are 0.01: 0.09 + 0.0091.
    assert seen[100 + 90] == 5e-4 and seen[100 + 89] == START
    assert set(seen) == {START, 5e-4}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_can_be_built(name):
    made = SCHEDULES[name]
    assert (made is None) == (name == "constant")
    if made:
        made(optimizer()).step(1.0, 1)
