"""Self-attention routing: one pass, in which votes attend to the other votes for the same output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capslib.layers import votes


def exponential_squash(s: Tensor, dim: int = -1) -> Tensor:
    """Shrink vectors to length 1 - exp(-length) and keep their direction (Mazzia et al. 2021, its squash).

    Steeper than ``squash`` near zero, where its gradient is the identity. Zero vectors stay zero. Give float32 or wider.

    Args:
        s: (..., D).
        dim: the axis of the vector's components.
    """
    length = ((s * s).sum(dim, keepdim=True) + torch.finfo(s.dtype).tiny).sqrt()
    return s * (-torch.expm1(-length) / length)


class SelfAttentionRouting(nn.Module):
    """Routing without iterations, by the agreement of each vote with all votes for that output (Mazzia et al. 2021).

    With the votes V_ij of D components, over valid inputs i':

        A_ii'j = V_ij . V_i'j / sqrt(D);  C_ij = exp(sum_i' A_ii'j), divided by its sum over the outputs j
        s_j = sum_i (C_ij + B_ij) V_ij;   v_j = (1 - exp(-|s_j|)) s_j / |s_j|

    The paper's softmax is over the outputs, and its log prior B is added after it; both are kept. The sum over i' is taken
    first (V_ij . sum_i' V_i'j), so the I x I matrix never exists; with shared matrices the votes do not either.

    What differs from the paper, and why:

    * B has one value an output, ``log_prior`` (J,), as the number of steps varies. With ``in_capsules`` it is the paper's, one
      value an input and output.
    * Inputs are not squashed before they vote, matrices may be shared, and masked inputs neither attend nor are attended to.
    * ``prior``, if given, is added to the logits before the softmax, as in dynamic routing.
    * Lengths are kept below one where the paper's squash rounds to one (|s| above 17 in float32).

    The sum over i' is the paper's and grows with the clip, like s: the softmax sharpens as the lengths near one. On hundreds
    of steps that agree, small matrices (``init_gain=0.1``) are needed more than with ``squash``, whose gradient falls
    with a power of |s| and not exponentially.

    Args:
        out_capsules: J.
        out_features: D.
        in_capsules: I, if every clip has as many inputs and ``log_prior`` shall be (I, J); None (default) for any number.
    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(self, out_capsules: int, out_features: int, *, in_capsules: int | None = None) -> None:
        super().__init__()
        own = {} if in_capsules is None else {"in_capsules": in_capsules}
        votes.at_least_one(out_capsules=out_capsules, out_features=out_features, **own)
        self.out_capsules, self.out_features, self.in_capsules = out_capsules, out_features, in_capsules
        self.log_prior = nn.Parameter(torch.zeros(*own.values(), out_capsules))

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """
        Computes in float32 at least, whatever autocast says.

        Args:
            u: (B, I, F).
            weight: (J, F, D) shared, or (I, J, F, D).
            mask: True at valid inputs, (B, I).
            prior: added to the logits, broadcastable to (B, I, J).
            return_coupling: also return C.
        Returns:
            (B, J, D) with lengths in [0, 1); with ``return_coupling`` also C without B, (B, I, J), zero at masked inputs and
            summing to one over J elsewhere.
        Raises:
            ValueError: if shapes do not fit.
        """
        votes.check(
            "SelfAttentionRouting", u, weight, mask,
            out_capsules=self.out_capsules, out_features=self.out_features, in_capsules=self.in_capsules,
        )  # fmt: skip
        out = torch.promote_types(u.dtype, weight.dtype)
        with torch.autocast(u.device.type, enabled=False):
            dtype = votes.working_dtype(out)
            cast = votes.Votes(votes.silenced(u.to(dtype), mask), weight.to(dtype))
            everything = cast.sum(cast.u.new_ones(*u.shape[:2], self.out_capsules))
            logits = cast.agreement(everything) / self.out_features**0.5
            coupling = (logits if prior is None else logits + prior.to(dtype)).softmax(-1)
            if mask is not None:
                coupling = coupling * mask.unsqueeze(-1)
            s = cast.sum(coupling + self.log_prior.to(dtype))  # votes of masked inputs are zero
            v = votes.below_one(exponential_squash(s), out)
        return (v, coupling.to(out)) if return_coupling else v

    def extra_repr(self) -> str:
        return f"out_capsules={self.out_capsules}, out_features={self.out_features}, in_capsules={self.in_capsules}"
