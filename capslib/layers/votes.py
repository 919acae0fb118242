"""What the rules beside dynamic routing share: votes, checks, and the precision they compute in.

Letters as in ``routing``: B batch, I input capsules, F their size, J output capsules, D their size.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Votes:
    """What every input proposes for every output: input ``i`` votes ``u_i @ weight_j`` for output ``j``.

    With one matrix shared by all inputs the votes are not formed, and memory grows with I * F and not with I * J * D.

    Args:
        u: (B, I, F).
        weight: (J, F, D) shared, or (I, J, F, D).
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        self.u, self.weight = u, weight
        own = weight.dim() == 4
        self.formed = torch.einsum("bif,ijfd->bjid", u, weight).contiguous() if own else None

    def sum(self, coupling: Tensor) -> Tensor:
        """Votes weighted by ``coupling`` (B, I, J) and summed over the inputs: (B, J, D)."""
        shares = coupling.transpose(1, 2)
        if self.formed is not None:
            return (shares.unsqueeze(2) @ self.formed).squeeze(2)
        return ((shares @ self.u).unsqueeze(2) @ self.weight).squeeze(2)

    def agreement(self, pose: Tensor) -> Tensor:
        """Dot product of each vote with its output's ``pose`` (B, J, D): (B, I, J)."""
        if self.formed is not None:
            return (self.formed @ pose.unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        return self.u @ (self.weight @ pose.unsqueeze(-1)).squeeze(-1).transpose(1, 2)


def check(
    rule: str,
    u: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    *,
    out_capsules: int | None = None,
    out_features: int | None = None,
    in_capsules: int | None = None,
) -> None:
    """Shapes fit each other and the sizes that ``rule`` was built for.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if u.dim() != 3 or weight.dim() not in (3, 4) or weight.shape[-2] != u.shape[-1]:
        raise ValueError(
            f"u {tuple(u.shape)} and weight {tuple(weight.shape)} do not fit: expected (B, I, F) with (J, F, D) or (I, J, F, D)"
        )
    if weight.dim() == 4 and weight.shape[0] != u.shape[1]:
        raise ValueError(f"weight is for {weight.shape[0]} input capsules, u has {u.shape[1]}")
    if mask is not None and mask.shape != u.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit u {tuple(u.shape)}: expected {tuple(u.shape[:2])}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}: give booleans, True at valid input capsules")
    for name, built_for, found in (
        ("out_capsules", out_capsules, weight.shape[-3]),
        ("out_features", out_features, weight.shape[-1]),
        ("in_capsules", in_capsules, u.shape[1]),
    ):
        if built_for is not None and built_for != found:
            raise ValueError(f"{name}={found}: this {rule} was built for {built_for}")


def at_least_one(**sizes: int) -> None:
    """All sizes are positive.

    Raises:
        ValueError: naming the one that is not.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a rule computes in when its output is ``dtype``: float32 for half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def silenced(u: Tensor, mask: Tensor | None) -> Tensor:
    """``u`` with zeros where ``mask`` is False, so that whatever pads (NaN as well) reaches no output and no gradient."""
    return u if mask is None else u.masked_fill(~mask.unsqueeze(-1), 0.0)


def below_one(v: Tensor, dtype: torch.dtype) -> Tensor:
    """``v`` as ``dtype``, shortened by a few roundings: a length that rounds to one would leave [0, 1)."""
    return (v * (1.0 - 4.0 * torch.finfo(v.dtype).eps - torch.finfo(dtype).eps)).to(dtype)
