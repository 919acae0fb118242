"""Routing-by-agreement: how much each input capsule contributes to each output capsule.

Letters, here and in every capsule layer: B batch, I input capsules, F their size, J output capsules, D their size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capslib.layers import kernels, native
from capslib.layers.passes import Passes, Routing, SharedPasses, VotePasses
from capslib.layers.squash import squash

FORMULATIONS: dict[str, type[Passes]] = {
    "shared": SharedPasses,
    "votes": VotePasses,
    "native": native.NativePasses,
}


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
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    prior: Tensor | None = None,
    detach_iterations: bool = False,
    return_coupling: bool = False,
    formulation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Dynamic routing (Sabour et al. 2017, procedure 1) from input capsules ``u`` through ``weight``.

    Gradients flow through every pass, by a hand-written backward that keeps nothing of the size of the votes. Half
    precision is computed in float32, under autocast too.

    Args:
        u: input capsules, (B, I, F).
        weight: one matrix an output capsule, shared by all inputs, (J, F, D); or one for each input, (I, J, F, D), read
            fastest where (I, J, D, F) lies contiguous.
        num_iterations: passes, at least 1. One pass couples by ``prior`` alone: uniformly, without one.
        bias: added to every vote, (J, D) or (B, J, D) (P2 equations 3 and 9).
        mask: True at valid input capsules, (B, I); others contribute nothing.
        prior: initial logits, broadcastable to (B, I, J); zeros by default.
        detach_iterations: take the last coupling for a constant in the backward (default no: another gradient).
        return_coupling: also return the coupling of the last pass.
        formulation: instead of the fastest (``choose``), for comparisons.
    Returns:
        Output capsules, (B, J, D), float32 or wider; once differentiable, not under ``torch.func``; with ``return_coupling`` also the coupling, (B, I, J), without a gradient, zero at
        masked inputs and summing to one over J elsewhere.
    Raises:
        ValueError: if shapes do not fit, ``num_iterations`` is below 1 or the formulation is not for such a weight.
    """
    _check(u, weight, num_iterations, bias, mask, prior)
    dtype = torch.promote_types(torch.promote_types(u.dtype, weight.dtype), torch.float32)
    B, I, _ = u.shape
    J, D = weight.shape[-3], weight.shape[-1]
    u, weight = u.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype).expand(B, J, D)
    prior = None if prior is None else prior.to(dtype).expand(B, I, J)
    name = formulation or choose(u, weight)
    with torch.autocast(u.device.type, enabled=False):
        if name == "reference":
            v, coupling = route_reference(u, weight, num_iterations, bias, mask, prior, detach_iterations)
        elif name == "triton":
            v, coupling = kernels.routed(u, weight, num_iterations, bias, mask, prior, detach_iterations)
        elif name in FORMULATIONS and (name == "shared") == (weight.dim() == 3):
            prior = None if prior is None else prior.transpose(1, 2)
            valid = None if mask is None else mask.unsqueeze(1).to(dtype)
            tensors = (u, weight, bias, prior, valid)
            v, coupling = Routing.apply(FORMULATIONS[name], num_iterations, detach_iterations, *tensors)
            coupling = coupling.transpose(1, 2)
        else:
            raise ValueError(
                f"formulation={name!r} is not for a weight {tuple(weight.shape)}: see routing.FORMULATIONS"
            )
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
    """Procedure 1 as it stands, votes and all: what every formulation is checked against.

    Args: as for ``route``, with ``bias`` (B, J, D) or (J, D).
    Returns:
        Output capsules, (B, J, D), and the coupling of the last pass, (B, I, J), detached.
    """
    votes = torch.einsum("bif,jfd->bijd" if weight.dim() == 3 else "bif,ijfd->bijd", u, weight)
    if bias is not None:
        votes = votes + (bias if bias.dim() == 2 else bias.unsqueeze(1))
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


def _check(
    u: Tensor, weight: Tensor, num_iterations: int, bias: Tensor | None, mask: Tensor | None, prior: Tensor | None
) -> None:
    if num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations}: routing needs at least one pass")
    if u.dim() != 3 or weight.dim() not in (3, 4) or weight.shape[-2] != u.shape[-1]:
        raise ValueError(
            f"u {tuple(u.shape)} and weight {tuple(weight.shape)} do not fit: expected (B, I, F) with (J, F, D) or (I, J, F, D)"
        )
    if weight.dim() == 4 and weight.shape[0] != u.shape[1]:
        raise ValueError(f"weight is for {weight.shape[0]} input capsules, u has {u.shape[1]}")
    B, I, J, D = *u.shape[:2], weight.shape[-3], weight.shape[-1]
    if mask is not None and mask.shape != (B, I):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit u {tuple(u.shape)}: expected {(B, I)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}: expected torch.bool, True at valid inputs")
    if bias is not None and bias.shape not in ((J, D), (B, J, D)):
        raise ValueError(f"bias {tuple(bias.shape)} does not fit: expected {(J, D)} or {(B, J, D)}")
    if prior is not None and not _expands(prior.shape, (B, I, J)):
        raise ValueError(f"prior {tuple(prior.shape)} does not fit: expected what broadcasts to {(B, I, J)}")


def _expands(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


class DynamicRouting(nn.Module):
    """``route`` with a fixed number of passes, for layers that take a routing rule as an argument.

    Args:
        num_iterations: passes (default 3); 1 couples uniformly and is the control without routing.
        detach_iterations: take the last coupling for a constant in the backward (default no).
    """

    def __init__(self, num_iterations: int = 3, detach_iterations: bool = False) -> None:
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"num_iterations={num_iterations}: routing needs at least one pass")
        self.num_iterations, self.detach_iterations = num_iterations, detach_iterations

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, I, F), (J, F, D) or (I, J, F, D) -> (B, J, D): see ``route``."""
        return route(
            u,
            weight,
            self.num_iterations,
            bias=bias,
            mask=mask,
            prior=prior,
            detach_iterations=self.detach_iterations,
            return_coupling=return_coupling,
        )

    def extra_repr(self) -> str:
        return f"num_iterations={self.num_iterations}" + ", detach_iterations=True" * self.detach_iterations
