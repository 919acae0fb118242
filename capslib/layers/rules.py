"""Routing rules by name: ``CapsuleLayer(F, J, D, routing=ROUTINGS["em"](J, D, 3))``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from capslib.layers.em import EMRouting
from capslib.layers.inverted_attention import InvertedAttentionRouting
from capslib.layers.routing import DynamicRouting
from capslib.layers.self_attention import SelfAttentionRouting

# name -> builder(out_capsules, out_features, num_iterations); "uniform" and "self_attention" know no iterations.
ROUTINGS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "dynamic": lambda J, D, passes: DynamicRouting(passes),
    "dynamic_detached": lambda J, D, passes: DynamicRouting(passes, detach_iterations=True),
    "uniform": lambda J, D, passes: DynamicRouting(1),
    "em": lambda J, D, passes: EMRouting(J, passes),
    "self_attention": lambda J, D, passes: SelfAttentionRouting(J, D),
    "inverted_attention": lambda J, D, passes: InvertedAttentionRouting(D, passes),
}
