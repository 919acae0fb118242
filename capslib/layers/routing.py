"""Routing-by-agreement: how much each input capsule contributes to each output capsule.

Letters, here and in every capsule layer: B batch, I input capsules, F their size, J output capsules, D their size.
"""

import torch
from torch import Tensor, nn

from capslib.layers import kernels, native
from capslib.layers.arguments import check_routing, check_sizes
from capslib.layers.formulations import Routing, SharedFormulation, VoteFormulation
from capslib.layers.squash import squash
from capslib.layers.votes import form_votes

FORMULATIONS = {"shared": SharedFormulation, "votes": VoteFormulation, "native": native.NativeFormulation}


def choose(u: Tensor, weight: Tensor) -> str:
    """Which formulation ``route`` takes: one of ``FORMULATIONS``, "triton" or "reference".

    ``torch.compile`` fuses the reference by itself. The times are in notebook 12.
    """
    if torch.compiler.is_compiling() or u.numel() == 0 or weight.numel() == 0:
        return "reference"
    if u.device.type == "cuda" and kernels.usable(u, weight):
        return "triton"
    if weight.dim() == 3:
        return "shared"
    return "native" if native.usable(u) else "votes"


def route(
    u: Tensor,
    weight: Tensor,
    num_iterations: int = 3,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    prior: Tensor | None = None,
    detach_iterations: bool = False,
    return_coupling: bool = False,
    formulation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Dynamic routing (Sabour et al. 2017, procedure 1) from input capsules ``u`` through ``weight``.

    Gradients flow through every iteration, by a hand-written backward that saves nothing of the size of the votes. Half
    precision is computed in float32, under autocast too.

    Args:
        u: input capsules, (B, I, F).
        weight: shared by all inputs, (J, F, D); or unshared, (I, J, F, D), read fastest where (I, J, D, F) lies
            contiguous.
        num_iterations: routing iterations, at least 1. One couples by ``prior`` alone: uniformly, without one.
        mask: True at valid input capsules, (B, I); others contribute nothing.
        bias: added to every vote, (J, D) or (B, J, D) (P2 equations 3 and 9).
        prior: initial logits, broadcastable to (B, I, J); zeros by default.
        detach_iterations: take the last coupling as a constant in the backward (default no: another gradient).
        return_coupling: also return the coupling of the last iteration.
        formulation: instead of the fastest (``choose``), for comparisons.
    Returns:
        Output capsules, (B, J, D), float32 or wider; once differentiable, not under ``torch.func``. With
        ``return_coupling`` also the coupling, (B, I, J), without a gradient, zero at masked inputs and summing to one
        over J elsewhere.
    Raises:
        ValueError: if shapes do not fit, ``num_iterations`` is below 1 or the formulation is not for such a weight.
    """
    check_sizes(num_iterations=num_iterations)
    check_routing(u, weight, mask, bias, prior)
    dtype = torch.promote_types(torch.promote_types(u.dtype, weight.dtype), torch.float32)
    B, I, _ = u.shape
    J, D = weight.shape[-3], weight.shape[-1]
    u, weight = u.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype).expand(B, J, D)
    prior = None if prior is None else prior.to(dtype).expand(B, I, J)
    name = formulation or choose(u, weight)
    with torch.autocast(u.device.type, enabled=False):
        if name in ("reference", "triton"):
            rule = route_reference if name == "reference" else kernels.routed
            v, coupling = rule(u, weight, num_iterations, bias, mask, prior, detach_iterations)
        elif name in FORMULATIONS and (name == "shared") == (weight.dim() == 3):
            prior = None if prior is None else prior.transpose(1, 2)  # (B, J, I)
            valid = None if mask is None else mask.unsqueeze(1).to(dtype)  # (B, 1, I)
            tensors = (u, weight, bias, prior, valid)
            v, coupling = Routing.apply(FORMULATIONS[name], num_iterations, detach_iterations, *tensors)
            coupling = coupling.transpose(1, 2)  # (B, I, J)
        else:
            shape = tuple(weight.shape)
            raise ValueError(f"formulation={name!r} is not for a weight {shape}: see routing.FORMULATIONS")
    return (v, coupling) if return_coupling else v


def route_reference(
    u: Tensor,
    weight: Tensor,
    num_iterations: int = 3,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    prior: Tensor | None = None,
    detach_iterations: bool = False,
) -> tuple[Tensor, Tensor]:
    """Procedure 1 by autograd with all votes formed: (B, J, D) and the last coupling, (B, I, J), detached."""
    votes = form_votes(u, weight, bias)
    logits = votes.new_zeros(votes.shape[:3]) if prior is None else prior.expand(votes.shape[:3])
    for iteration in range(num_iterations):
        coupling = logits.softmax(-1)
        if mask is not None:
            coupling = coupling * mask.unsqueeze(-1)
        if detach_iterations:
            coupling = coupling.detach()
        v = squash(torch.einsum("bij,bijd->bjd", coupling, votes))
        if iteration + 1 < num_iterations:
            logits = logits + torch.einsum("bijd,bjd->bij", votes, v)
    return v, coupling.detach()


class DynamicRouting(nn.Module):
    """``route`` with a fixed number of iterations, for layers that take a routing rule as an argument.

    Args:
        num_iterations: routing iterations (default 3); 1 couples uniformly and is the control without routing.
        detach_iterations: take the last coupling as a constant in the backward (default no).
    """

    def __init__(self, num_iterations: int = 3, detach_iterations: bool = False) -> None:
        super().__init__()
        check_sizes(num_iterations=num_iterations)
        self.num_iterations, self.detach_iterations = num_iterations, detach_iterations

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, I, F), (J, F, D) or (I, J, F, D) -> (B, J, D): see ``route``."""
        options = {"detach_iterations": self.detach_iterations, "return_coupling": return_coupling}
        return route(u, weight, self.num_iterations, mask=mask, bias=bias, prior=prior, **options)

    def extra_repr(self) -> str:
        return f"num_iterations={self.num_iterations}" + ", detach_iterations=True" * self.detach_iterations
