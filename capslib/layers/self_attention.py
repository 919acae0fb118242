"""Self-attention routing without iterations, in which votes attend to the other votes for the same output."""

import torch
from torch import Tensor, nn

from capslib.layers.votes import VoteRouting, Votes


def exponential_squash(s: Tensor) -> Tensor:
    """Shrink vectors to length 1 - exp(-length) and keep their direction (Mazzia et al. 2021, its squash).

    Steeper than ``squash`` near zero, where its gradient is the identity. Zero vectors stay zero. (..., D) -> (..., D),
    float32 or wider.
    """
    length = ((s * s).sum(-1, keepdim=True) + torch.finfo(s.dtype).tiny).sqrt()
    return s * (-torch.expm1(-length) / length)


class SelfAttentionRouting(VoteRouting):
    """Routing without iterations, by the agreement of each vote with all votes for that output (Mazzia et al. 2021).

    With the votes V_ij of D components, over valid inputs i':

        A_ii'j = V_ij . V_i'j / sqrt(D);  C_ij = exp(sum_i' A_ii'j), divided by its sum over the outputs j
        s_j = sum_i (C_ij + B_ij) V_ij;   v_j = (1 - exp(-|s_j|)) s_j / |s_j|

    As in the paper, the softmax is over the outputs, and the log prior B is added after it. The sum over i' is taken
    first (V_ij . sum_i' V_i'j), so the I x I matrix never exists; with shared weights the votes do not either.

    What differs from the paper, and why:

    * B has one value per output, ``log_prior`` (J,), as the number of steps varies. With ``in_capsules`` it is the
      paper's, one value per input and output.
    * Inputs are not squashed before they vote, weights may be shared, and masked inputs neither attend nor are
      attended to.
    * ``prior``, if given, is added to the logits before the softmax, as in dynamic routing.
    * Lengths stay below one where the paper's squash rounds to one (|s| above 17 in float32).

    The sum over i' is the paper's and grows with the clip, like s: the softmax sharpens as the lengths near one. On
    hundreds of steps that agree, small weights (``init_gain=0.1``) are needed more than with ``squash``, whose gradient
    falls with a power of |s| and not exponentially.

    Args:
        out_capsules, out_features: J and D.
        in_capsules: I for a ``log_prior`` (I, J), if all clips have as many inputs; None (default) for any number.
    Returns:
        When called, see ``VoteRouting``; the coupling is C without B.
    """

    def __init__(self, out_capsules: int, out_features: int, *, in_capsules: int | None = None) -> None:
        super().__init__(out_capsules=out_capsules, out_features=out_features, in_capsules=in_capsules)
        shape = (out_capsules,) if in_capsules is None else (in_capsules, out_capsules)
        self.log_prior = nn.Parameter(torch.zeros(shape))

    def route_votes(
        self, u: Tensor, weight: Tensor, valid: Tensor, bias: Tensor | None, prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        votes = Votes(u, weight, bias)
        everything = votes.sum(valid.expand(-1, -1, weight.shape[-3]))  # sum_i' V_i'j, (B, J, D)
        coupling = (votes.agreement(everything) / weight.shape[-1] ** 0.5 + prior).softmax(-1) * valid
        s = votes.sum((coupling + self.log_prior.to(u.dtype)) * valid)
        return exponential_squash(s), coupling
