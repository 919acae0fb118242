"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from capslib.errors import CapslibError

if TYPE_CHECKING:
    from capslib.training.config import RunConfig


def _adam(parameters: Iterable[nn.Parameter], config: RunConfig) -> torch.optim.Optimizer:
    if config.momentum or config.weight_decay:
        raise CapslibError(
            f"{config.title()}: optimizer='adam' has neither momentum nor weight_decay: leave them out, or use 'sgd'"
        )
    return torch.optim.Adam(parameters, config.learning_rate, fused=True)


def _sgd(parameters: Iterable[nn.Parameter], config: RunConfig) -> torch.optim.Optimizer:
    # P3 trains with a rate of 0.01, momentum 0.9 and weight decay 1e-8.
    return torch.optim.SGD(
        parameters, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )


# Name -> builder from a model's parameters and the configuration of the run.
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], RunConfig], torch.optim.Optimizer]] = {
    "adam": _adam,
    "sgd": _sgd,
}
