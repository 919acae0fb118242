"""Routing rules by name: ``CapsuleLayer(F, J, D, routing=ROUTINGS["em"](J, D, 3))``."""

from collections.abc import Callable

from torch import nn

from capslib.layers.em import EMRouting
from capslib.layers.inverted_attention import InvertedAttentionRouting
from capslib.layers.routing import DynamicRouting
from capslib.layers.self_attention import SelfAttentionRouting

# Name -> builder(out_capsules, out_features, num_iterations). "uniform" and "self_attention" have no iterations.
# Every rule is called as rule(u, weight, mask=None, bias=None, prior=None, return_coupling=False), see ``route``.
ROUTINGS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "dynamic": lambda J, D, iterations: DynamicRouting(iterations),
    "dynamic_detached": lambda J, D, iterations: DynamicRouting(iterations, detach_iterations=True),
    "uniform": lambda J, D, iterations: DynamicRouting(1),
    "em": lambda J, D, iterations: EMRouting(J, iterations),
    "self_attention": lambda J, D, iterations: SelfAttentionRouting(J, D),
    "inverted_attention": lambda J, D, iterations: InvertedAttentionRouting(D, iterations),
}
