"""P0's capsule network with another rule in place of dynamic routing: the same trunk, matrices and start, so that pairs of
runs differ in the rule alone (notebook 03)."""

from __future__ import annotations

from dataclasses import dataclass

from capslib.errors import choose
from capslib.layers import ROUTINGS
from capslib.models import Entry
from capslib.models.p0_capsnet import CapsNet, CapsNetConfig


@dataclass(frozen=True)
class RoutedConfig(CapsNetConfig):
    """``routing``: a name in ``layers.ROUTINGS``; ``num_iterations`` is for the rules that have any."""

    routing: str = "dynamic"


class RoutedCapsNet(CapsNet):
    """Scores are the lengths of the class capsules, whatever the rule."""

    def __init__(self, in_features: int, num_classes: int, config: RoutedConfig) -> None:
        super().__init__(in_features, num_classes, config)
        build = ROUTINGS[choose(config.routing, ROUTINGS, "routing rule")]
        self.capsules.routing = build(num_classes, config.capsule_features, config.num_iterations)


MODELS = {"caps_routed": Entry(RoutedCapsNet, RoutedConfig)}
