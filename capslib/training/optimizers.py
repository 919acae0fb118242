"""Optimizers by name, and how their learning rate changes during a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from capslib.errors import CapslibError

if TYPE_CHECKING:
    from capslib.training.config import RunConfig


def _adam(parameters: Iterable[nn.Parameter], config: RunConfig) -> Optimizer:
    if config.momentum or config.weight_decay:
        raise CapslibError(
            f"{config.title()}: optimizer='adam' has neither momentum nor weight_decay: leave them out, or use 'sgd'"
        )
    return torch.optim.Adam(parameters, config.learning_rate, fused=True)


def _sgd(parameters: Iterable[nn.Parameter], config: RunConfig) -> Optimizer:
    # P3 trains with a rate of 0.01, momentum 0.9 and weight decay 1e-8.
    return torch.optim.SGD(
        parameters, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )


class LossDecay:
    """The rule of P2, section V-E: the rate is held for some epochs, then falls with each tenfold fall of the loss.

    The paper does not say which mean the factors of ten are measured from; here it is the first full window's.

    Args:
        optimizer: whose rate is set.
        held_epochs: during which the rate stays.
        rates: that follow, one for each tenfold fall.
        window: steps whose losses are averaged.
    """

    def __init__(
        self, optimizer: Optimizer, held_epochs: int = 3, rates: Sequence[float] = (5e-4, 2e-4, 1e-4), window: int = 100
    ) -> None:
        self.optimizer, self.held_epochs, self.rates, self.window = optimizer, held_epochs, rates, window
        self.losses: deque[float] = deque(maxlen=window)
        self.reference: float | None = None
        self.falls = 0

    def step(self, loss: float, epoch: int) -> None:
        """After one optimizer step of ``epoch`` (from 1) with this ``loss``."""
        self.losses.append(loss)
        if len(self.losses) < self.window:
            return
        mean = sum(self.losses) / self.window
        if self.reference is None:
            self.reference = mean
        if epoch <= self.held_epochs or self.falls == len(self.rates):
            return
        if mean <= self.reference / 10 ** (self.falls + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates[self.falls]
            self.falls += 1


# Name -> builder from a model's parameters and the configuration of the run.
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], RunConfig], Optimizer]] = {
    "adam": _adam,
    "sgd": _sgd,
}
# Name -> class whose ``step(loss, epoch)`` is called after every step of the optimizer; None leaves the rate as it is.
SCHEDULES = {"constant": None, "loss_decay": LossDecay}
