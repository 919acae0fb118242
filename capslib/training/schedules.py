"""Learning rates that change during a run."""

from __future__ import annotations

from collections import deque

import torch


class LossDecay:
    """P2's rule (section V-E): the rate stays for some epochs, then falls each time the mean loss has fallen tenfold.

    The paper does not say which mean the factors of ten are measured from; here it is the first full window's.

    Args:
        optimizer: whose rate is set.
        held_epochs: during which the rate stays (3).
        rates: that follow, one for each tenfold fall (5e-4, 2e-4, 1e-4).
        window: steps whose losses are averaged (100).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        held_epochs: int = 3,
        rates: tuple[float, ...] = (5e-4, 2e-4, 1e-4),
        window: int = 100,
    ) -> None:
        self.optimizer, self.held_epochs, self.rates = optimizer, held_epochs, rates
        self.losses: deque[float] = deque(maxlen=window)
        self.reference: float | None = None
        self.falls = 0

    def step(self, loss: float, epoch: int) -> None:
        """After one optimizer step of ``epoch`` (from 1) with this ``loss``."""
        self.losses.append(loss)
        if len(self.losses) < (self.losses.maxlen or 0):
            return
        mean = sum(self.losses) / len(self.losses)
        if self.reference is None:
            self.reference = mean
        if epoch > self.held_epochs and self.falls < len(self.rates):
            if mean <= self.reference / 10 ** (self.falls + 1):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rates[self.falls]
                self.falls += 1


# Name -> class whose ``step(loss, epoch)`` is called after every step of the optimizer; None leaves the rate as it is.
SCHEDULES = {"constant": None, "loss_decay": LossDecay}
