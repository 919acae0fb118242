"""Inverted dot-product attention: output capsules compete for the attention of each input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from capslib.layers import votes
from capslib.layers.routing import squash


class InvertedAttentionRouting(nn.Module):
    """Routing by the agreement of votes with layer-normalized poses (Tsai et al. 2020, procedure 1, one layer at a time).

    With the votes V_ij, in each of ``num_iterations`` passes:

        a_ij = p_j . V_ij  (zero in the first pass);  r_ij = exp(a_ij), divided by its sum over the outputs j
        s_j = sum_i r_ij V_ij;  p_j = LayerNorm(s_j)

    Agreements are not accumulated over the passes as in dynamic routing: each pass starts from the last poses alone.

    What differs from the paper, and why:

    * The last pass returns ``squash(s_j)``, not LayerNorm(s_j) and a linear classifier: here the length is the score, and
      after a LayerNorm all lengths are about sqrt(D). Between the passes the LayerNorm is the paper's.
    * So one pass couples uniformly and equals dynamic routing with one pass; the LayerNorm then has no gradient.
    * Passes run to their end in this layer (the paper's sequential routing); its concurrent routing, in which all layers
      take each pass together, needs the whole network.
    * The agreement is the paper's equation, without the factor 1 / sqrt(D) of its authors' program.
    * ``prior`` is added to the agreements in every pass; masked inputs contribute nothing.

    Args:
        out_features: D, at least 2: a single component has nothing to be normalized against.
        num_iterations: passes, at least 1 (default 3).
    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, out_features: int, num_iterations: int = 3) -> None:
        super().__init__()
        if out_features < 2:
            raise ValueError(f"out_features={out_features}: LayerNorm needs poses of at least 2 components")
        if num_iterations < 1:
            raise ValueError(f"num_iterations={num_iterations}: routing needs at least one pass")
        self.num_iterations = num_iterations
        self.norm = nn.LayerNorm(out_features)

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
            weight: (J, F, D) shared (the votes are then never formed), or (I, J, F, D).
            mask: True at valid inputs, (B, I).
            prior: added to the logits, broadcastable to (B, I, J).
            return_coupling: also return r of the last pass.
        Returns:
            (B, J, D) with lengths in [0, 1); with ``return_coupling`` also (B, I, J), zero at masked inputs and summing to
            one over J elsewhere.
        Raises:
            ValueError: if shapes do not fit.
        """
        D = self.norm.normalized_shape[0]
        votes.check("InvertedAttentionRouting", u, weight, mask, out_features=D)
        out = torch.promote_types(u.dtype, weight.dtype)
        with torch.autocast(u.device.type, enabled=False):
            dtype = votes.working_dtype(out)
            cast = votes.Votes(votes.silenced(u.to(dtype), mask), weight.to(dtype))
            prior = cast.u.new_zeros(weight.shape[-3]) if prior is None else prior.to(dtype)
            logits = prior.expand(*u.shape[:2], weight.shape[-3])
            for iteration in range(self.num_iterations):
                coupling = logits.softmax(-1)
                if mask is not None:
                    coupling = coupling * mask.unsqueeze(-1)
                s = cast.sum(coupling)
                if iteration + 1 < self.num_iterations:
                    pose = functional.layer_norm(
                        s, (D,), self.norm.weight.to(dtype), self.norm.bias.to(dtype), self.norm.eps
                    )
                    logits = prior + cast.agreement(pose)
            v = votes.below_one(squash(s), out)
        return (v, coupling.to(out)) if return_coupling else v

    def extra_repr(self) -> str:
        return f"num_iterations={self.num_iterations}"
