"""Routing-by-agreement: how much each input capsule contributes to each output capsule.

Letters, here and in every capsule layer: B batch, I input capsules, F their size, J output capsules, D their size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def squash(s: Tensor, dim: int = -1) -> Tensor:
    """Shrink vectors to lengths below one and keep their direction (Sabour et al. 2017, equation 1).

    Zero vectors stay zero, with a finite gradient. Half precision is squashed in float32.

    Args:
        s: (..., D).
        dim: the axis of the vector's components.
    Returns:
        Same shape and dtype as ``s``.
    """
    wide = s.float() if s.dtype in (torch.float16, torch.bfloat16) else s
    squared = (wide * wide).sum(dim, keepdim=True)
    tiny = torch.finfo(wide.dtype).tiny ** 0.5
    return (wide * squared / ((1.0 + squared) * (squared + tiny).sqrt())).to(s.dtype)


def route(
    u: Tensor,
    weight: Tensor,
    num_iterations: int = 3,
    *,
    mask: Tensor | None = None,
    prior: Tensor | None = None,
    return_coupling: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Dynamic routing (Sabour et al. 2017, procedure 1) from input capsules ``u`` through ``weight``.

    Gradients flow through every iteration. With one matrix shared by all input capsules the votes are never formed: the
    coupled inputs are summed before the product, so memory grows with I * F and not with I * J * D.

    Args:
        u: input capsules, (B, I, F).
        weight: one matrix an output capsule, shared by all inputs, (J, F, D); or one for each input, (I, J, F, D).
        num_iterations: passes, at least 1. One pass couples by ``prior`` alone: uniformly, without one.
        mask: True at valid input capsules, (B, I); others contribute nothing.
        prior: initial logits, broadcastable to (B, I, J); zeros by default.
        return_coupling: also return the coupling of the last pass.
    Returns:
        Output capsules, (B, J, D); with ``return_coupling`` also the coupling, (B, I, J), zero at masked inputs and
        summing to one over J elsewhere.
    Raises:
        ValueError: if shapes do not fit or ``num_iterations`` is below 1.
    """
    if num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations}: routing needs at least one pass")
    if u.dim() != 3 or weight.dim() not in (3, 4) or weight.shape[-2] != u.shape[-1]:
        raise ValueError(
            f"u {tuple(u.shape)} and weight {tuple(weight.shape)} do not fit: expected (B, I, F) with (J, F, D) or (I, J, F, D)"
        )
    if weight.dim() == 4 and weight.shape[0] != u.shape[1]:
        raise ValueError(f"weight is for {weight.shape[0]} input capsules, u has {u.shape[1]}")
    if mask is not None and mask.shape != u.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit u {tuple(u.shape)}: expected {tuple(u.shape[:2])}")
    B, I, _ = u.shape
    J = weight.shape[-3]
    if weight.dim() == 4:
        votes = torch.einsum("bif,ijfd->bjid", u, weight).contiguous()  # (B, J, I, D)
    logits = u.new_zeros(B, I, J) if prior is None else prior.expand(B, I, J)
    for iteration in range(num_iterations):
        coupling = logits.softmax(dim=-1)
        if mask is not None:
            coupling = coupling * mask.unsqueeze(-1)
        if weight.dim() == 4:
            s = (coupling.transpose(1, 2).unsqueeze(2) @ votes).squeeze(2)  # (B, J, 1, I) @ (B, J, I, D)
        else:
            pooled = coupling.transpose(1, 2) @ u  # (B, J, F)
            s = (pooled.unsqueeze(2) @ weight).squeeze(2)  # (B, J, 1, F) @ (J, F, D)
        v = squash(s)
        if iteration + 1 < num_iterations:
            if weight.dim() == 4:
                agreement = (votes @ v.unsqueeze(-1)).squeeze(-1).transpose(1, 2)
            else:
                agreement = u @ (weight @ v.unsqueeze(-1)).squeeze(-1).transpose(1, 2)  # (B, I, F) @ (B, F, J)
            logits = logits + agreement
    return (v, coupling) if return_coupling else v


class DynamicRouting(nn.Module):
    """``route`` with a fixed number of passes, for layers that take a routing rule as an argument.

    Args:
        num_iterations: passes (default 3); 1 couples uniformly and is the control without routing.
    """

    def __init__(self, num_iterations: int = 3) -> None:
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"num_iterations={num_iterations}: routing needs at least one pass")
        self.num_iterations = num_iterations

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, I, F), (J, F, D) or (I, J, F, D) -> (B, J, D): see ``route``."""
        return route(u, weight, self.num_iterations, mask=mask, prior=prior, return_coupling=return_coupling)

    def extra_repr(self) -> str:
        return f"num_iterations={self.num_iterations}"
