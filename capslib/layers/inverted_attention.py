"""Inverted dot-product attention: output capsules compete for the attention of each input."""

from torch import Tensor, nn
from torch.nn import functional

from capslib.layers.arguments import check_sizes
from capslib.layers.squash import squash
from capslib.layers.votes import VoteRouting, Votes


class InvertedAttentionRouting(VoteRouting):
    """Routing by the agreement of votes with layer-normalized poses (Tsai et al. 2020, procedure 1, layer by layer).

    With the votes V_ij, in each of ``num_iterations`` iterations:

        a_ij = p_j . V_ij  (zero in the first one);  r_ij = exp(a_ij), divided by its sum over the outputs j
        s_j = sum_i r_ij V_ij;  p_j = LayerNorm(s_j)

    Agreements are not accumulated as in dynamic routing: each iteration starts from the last poses alone.

    What differs from the paper, and why:

    * The last iteration returns ``squash(s_j)``, not LayerNorm(s_j) and a linear classifier: here the length is the
      score, and after a LayerNorm all lengths are about sqrt(D). Between the iterations the LayerNorm is the paper's.
    * So one iteration couples uniformly and equals dynamic routing with one; the LayerNorm then has no gradient.
    * Iterations run to their end in this layer (the paper's sequential routing); its concurrent routing, in which all
      layers take each iteration together, needs the whole network.
    * The agreement is the paper's equation, without the factor 1 / sqrt(D) of its authors' program.
    * ``prior`` is added to the agreements in every iteration; masked inputs contribute nothing.

    Args:
        out_features: D, at least 2: LayerNorm maps a single component to zero.
        num_iterations: routing iterations, at least 1 (default 3). ValueError if either is below its least.
    """

    def __init__(self, out_features: int, num_iterations: int = 3) -> None:
        super().__init__(out_features=out_features)
        check_sizes(2, out_features=out_features)
        check_sizes(num_iterations=num_iterations)
        self.num_iterations = num_iterations
        self.norm = nn.LayerNorm(out_features)

    def route_votes(
        self, u: Tensor, weight: Tensor, valid: Tensor, bias: Tensor | None, prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        votes, norm = Votes(u, weight, bias), self.norm
        logits = prior.expand(*u.shape[:2], weight.shape[-3])
        for iteration in range(self.num_iterations):
            coupling = logits.softmax(-1) * valid
            s = votes.sum(coupling)
            if iteration + 1 < self.num_iterations:
                gain, shift = norm.weight.to(u.dtype), norm.bias.to(u.dtype)
                pose = functional.layer_norm(s, norm.normalized_shape, gain, shift, norm.eps)
                logits = prior + votes.agreement(pose)
        return squash(s), coupling

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_iterations={self.num_iterations}"
