"""What people use instead: dynamic routing written in other ways, and one other rule.

Letters as in ``capslib.layers.routing``: B batch, I input capsules, F their size, J output capsules, D their size. A
formulation takes u (B, I, F), weight (J, F, D) or (I, J, F, D), and the number of iterations; it returns (B, J, D).
All in ``SAME_RULE`` compute what ``route`` computes, up to rounding (``tests/bench/test_bench_formulations.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from capslib.layers import route, squash

# Names of rows, as the files in data/measured hold them.
OURS = "capslib, full gradient"
NATIVE = "capslib, full gradient, C++ passes"
EINSUM = "votes by one einsum, routing by einsum"
EXPANDED = "votes by matmul of expanded operands"
BROADCAST = "votes by broadcast multiply and sum"
HEINSEN = "another rule: Heinsen 2022"
OURS_DETACHED = "capslib, inner iterations detached"
EXPANDED_DETACHED = f"{EXPANDED}, inner iterations detached"
DETACHED = (OURS_DETACHED, EXPANDED_DETACHED)

Formulation = Callable[[Tensor, Tensor, int], Tensor]


def einsum_votes(u: Tensor, weight: Tensor) -> Tensor:
    """All votes by one einsum, (B, I, J, D)."""
    return torch.einsum("bif,ijfd->bijd" if weight.dim() == 4 else "bif,jfd->bijd", u, weight)


def expanded_votes(u: Tensor, weight: Tensor) -> Tensor:
    """All votes, (B, I, J, D), by a batched product of (1, F) and (F, D), which copies the matrices for every clip."""
    return (u[:, :, None, None, :] @ weight).squeeze(3)


def broadcast_votes(u: Tensor, weight: Tensor) -> Tensor:
    """All votes, (B, I, J, D), by multiplying in (B, I, J, F, D) and summing over F."""
    return (u[:, :, None, :, None] * weight).sum(3)


def routed_by_einsum(votes: Tensor, num_iterations: int, mask: Tensor | None = None) -> Tensor:
    """Procedure 1 of Sabour et al. (2017) with an einsum for either sum over votes (B, I, J, D); mask is (B, I)."""
    logits = votes.new_zeros(votes.shape[:3])
    for iteration in range(num_iterations):
        coupling = logits.softmax(-1)
        if mask is not None:
            coupling = coupling * mask.unsqueeze(-1)
        v = squash(torch.einsum("bij,bijd->bjd", coupling, votes))
        if iteration + 1 < num_iterations:
            logits = logits + torch.einsum("bijd,bjd->bij", votes, v)
    return v


def routed_by_broadcast(votes: Tensor, num_iterations: int, detach: bool = False) -> Tensor:
    """The same with products of the size of the votes, summed.

    Args:
        votes: (B, I, J, D).
        num_iterations: of routing.
        detach: leave all iterations but the last out of the gradient.
    """
    logits = votes.new_zeros(votes.shape[:3])
    inner_votes = votes.detach() if detach else votes
    for iteration in range(num_iterations):
        last = iteration + 1 == num_iterations
        v = squash((logits.softmax(-1).unsqueeze(-1) * (votes if last else inner_votes)).sum(1))
        if not last:
            logits = logits + (inner_votes * v.unsqueeze(1)).sum(-1)
    return v


SAME_RULE: dict[str, Formulation] = {
    # The default: gradient through every iteration, the path chosen by shape.
    OURS: route,
    # The optional C++ passes: they need a compiler, and are for processors and unshared weights.
    NATIVE: partial(route, formulation="native"),
    # The fastest of the correct public formulations that were compared (there with einops).
    EINSUM: lambda u, weight, iterations: routed_by_einsum(einsum_votes(u, weight), iterations),
    # The usual ports: matrices expanded over the batch for a matmul, sums over votes by broadcasting.
    EXPANDED: lambda u, weight, iterations: routed_by_broadcast(expanded_votes(u, weight), iterations),
    # Nothing but broadcasting: the products before the sum over F are in memory, too.
    BROADCAST: lambda u, weight, iterations: routed_by_broadcast(broadcast_votes(u, weight), iterations),
    # A gradient through the last iteration only is another gradient, so these are compared among themselves.
    OURS_DETACHED: partial(route, detach_iterations=True),
    EXPANDED_DETACHED: lambda u, weight, iterations: routed_by_broadcast(expanded_votes(u, weight), iterations, True),
}
ROWS = (OURS, NATIVE, EINSUM, EXPANDED, BROADCAST, HEINSEN, OURS_DETACHED, EXPANDED_DETACHED)


class HeinsenRouting(nn.Module):
    """Another rule, for its speed: Heinsen 2022, "An Algorithm for Routing Vectors in Sequences" (arXiv:2211.11754).

    Written from its equations. With x the inputs, x' = x / sqrt(I), LN the layer normalization without parameters:

        a_i = sigmoid(w_i . x'_i + b_i)                       how active an input is
        V_ij = (x'_i * f_j) P + o_j                           its vote; not formed: the sum below is linear in x'
        r_ij = 1 / J at first, then softmax over j of log sigmoid(s_ij (x_i . z_j) + t_ij),
               where z_j = (LN(y_j) Q) * g_j + h_j            predicts the inputs from an output
        phi_ij = use_ij a_i r_ij - ignore_ij a_i (1 - r_ij)   gain of an output that uses, less that of one that ignores
        y_j = sum_i phi_ij V_ij                               and LN(y_j) at the end

    Args:
        in_capsules: I, each with its own w, b, s, t, use and ignore; None shares w, b, s and t and computes use and
            ignore from x by a linear layer each, so that any number of inputs goes in.
        in_features, out_capsules, out_features: F, J, D.
        num_iterations: 2 in the paper; here as many as for the other rows.
    """

    def __init__(
        self, in_capsules: int | None, in_features: int, out_capsules: int, out_features: int, num_iterations: int = 3
    ) -> None:
        super().__init__()
        I, F, J, D = in_capsules or 1, in_features, out_capsules, out_features
        self.num_iterations = num_iterations

        def normal(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(shape))

        self.w, self.b = normal(I, F, scale=2 * F**-0.5), nn.Parameter(torch.zeros(I))
        self.f, self.P, self.o = normal(J, F), normal(F, D, scale=2 * F**-0.5), nn.Parameter(torch.zeros(J, D))
        self.Q, self.g, self.h = normal(D, F, scale=D**-0.5), normal(J, F), nn.Parameter(torch.zeros(J, F))
        self.s, self.t = normal(I, J, scale=F**-0.5), nn.Parameter(torch.zeros(I, J))
        if in_capsules is None:
            self.use_of, self.ignore_of = nn.Linear(F, J), nn.Linear(F, J)
        else:
            self.use, self.ignore = normal(I, J), normal(I, J)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, F) -> (B, J, D)."""
        J, D = self.o.shape
        use, ignore = (self.use, self.ignore) if hasattr(self, "use") else (self.use_of(x), self.ignore_of(x))
        scaled = x / x.shape[1] ** 0.5
        active = torch.sigmoid((scaled * self.w).sum(-1) + self.b).unsqueeze(-1)  # (B, I, 1)
        y = None
        for _ in range(self.num_iterations):
            if y is None:
                share = active / J
            else:
                predicted = nn.functional.layer_norm(y, (D,)) @ self.Q * self.g + self.h  # (B, J, F)
                score = nn.functional.logsigmoid(x @ predicted.transpose(1, 2) * self.s + self.t)
                share = active * score.softmax(-1)  # (B, I, J)
            phi = use * share - ignore * (active - share)
            pooled = phi.transpose(1, 2) @ scaled  # (B, J, F)
            y = (pooled * self.f) @ self.P + phi.sum(1).unsqueeze(-1) * self.o
        return nn.functional.layer_norm(y, (D,))
