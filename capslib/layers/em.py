"""EM routing: outputs are Gaussian clusters of votes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from capslib.layers.arguments import check_sizes
from capslib.layers.votes import VoteRouting, form_votes


class EMRouting(VoteRouting):
    """Expectation-maximization of one diagonal Gaussian per output capsule (Hinton et al. 2018, procedure 1).

    For ``num_iterations`` iterations t = 1..T, starting from equal shares r_ij = 1 / J of every input i:

        M-step  R_ij = a_i r_ij;  mu_jh, sigma2_jh: mean and variance of the votes V_ijh, weighted by R_ij
                cost_jh = (beta_u_j + log sigma_jh) sum_i R_ij
                a_j = sigmoid(lambda_t (beta_a_j - sum_h cost_jh J / (D N)))
        E-step  r_ij = a_j Normal(V_ij; mu_j, sigma2_j), divided by its sum over the outputs j

    Tight clusters are active, the more so the more votes they hold. The output is ``v_j = a_j mu_j / |mu_j|``.

    What differs from the paper, and why:

    * Input activations a_i: our inputs are vectors without one, so a_i is the mask: 1 at valid inputs, 0 elsewhere.
    * The evidence is divided by D N / J, the vote components that fall to an output when N valid inputs are shared out
      equally. The paper's layers have a fixed number of inputs and absorb this in lambda; over hundreds of steps the
      bare sum drives every activation to 0 or 1, and a long clip to other scores than a short one. N counts inputs and
      not shares: an output that gets fewer votes still has less evidence.
    * lambda_t = ``inverse_temperature`` * t / T: the paper says only that it grows by a fixed schedule.
    * Output poses are vectors, and the activation is returned as the length of the pose, which the margin loss reads;
      the length of mu_j itself is lost. Outputs without a mean (silence, no valid input) have length 0:
      |mu_j| is the root of the sum of squares plus 1e-12.
    * ``variance_floor`` is added to each variance, which the paper leaves to chance when votes coincide.
    * beta_u starts at log 10: votes that spread by 0.1, as with ``init_gain=0.1``, then cost nothing, and activations
      start near one half. ``prior`` is added to the logits of r in every iteration.
    * No coordinate addition.

    With weights shared by all inputs, a constant added to every step moves all votes and their means alike: it turns
    the outputs but changes no length. Shared weights then score how a clip varies along its steps, not where it lies.
    Unshared weights (``in_capsules``) score agreement among the inputs, as in the paper.

    The votes are formed: memory grows with I * J * D. Arguments out of range raise a ValueError.

    Args:
        out_capsules: J; each has its own beta_u and beta_a.
        num_iterations: routing iterations, at least 1 (default 3).
        inverse_temperature: lambda of the last iteration (default 1).
        variance_floor: in squared units of the votes (default 1e-4).
    """

    def __init__(
        self,
        out_capsules: int,
        num_iterations: int = 3,
        *,
        inverse_temperature: float = 1.0,
        variance_floor: float = 1e-4,
    ) -> None:
        super().__init__(out_capsules=out_capsules)
        check_sizes(num_iterations=num_iterations)
        for name, value in (("inverse_temperature", inverse_temperature), ("variance_floor", variance_floor)):
            if not value > 0:
                raise ValueError(f"{name}={value}: must be above 0")
        self.num_iterations = num_iterations
        self.inverse_temperature, self.variance_floor = inverse_temperature, variance_floor
        self.beta_u = nn.Parameter(torch.full((out_capsules,), math.log(10.0)))
        self.beta_a = nn.Parameter(torch.zeros(out_capsules))

    def route_votes(
        self, u: Tensor, weight: Tensor, valid: Tensor, bias: Tensor | None, prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        votes = form_votes(u, weight, bias)  # (B, I, J, D)
        if bias is not None:  # without one, votes of masked inputs are zero like the inputs
            votes = votes * valid.unsqueeze(-1)
        J = weight.shape[-3]
        number = valid.sum(1).clamp_min(1.0)  # N, (B, 1)
        beta_u, beta_a = self.beta_u.to(u.dtype), self.beta_a.to(u.dtype)
        logits = prior.expand(votes.shape[:3])
        for iteration in range(1, self.num_iterations + 1):
            # M-step. Logarithms over the inputs too: an output whose shares underflow still has a mean and a variance.
            share = logits.log_softmax(-1)  # log r, (B, I, J)
            coupling = share.exp() * valid  # R
            among = share.masked_fill(valid == 0, torch.finfo(share.dtype).min).softmax(1).unsqueeze(-1)  # R / sum_i R
            mean = (among * votes).sum(1)  # (B, J, D)
            squared = (votes - mean.unsqueeze(1)).square()  # (B, I, J, D)
            variance = (among * squared).sum(1) + self.variance_floor  # (B, J, D)
            amount = coupling.sum(1) * J / number  # (B, J)
            cost = amount * (beta_u + 0.5 * variance.log().mean(-1))
            score = self.inverse_temperature * iteration / self.num_iterations * (beta_a - cost)
            if iteration < self.num_iterations:  # E-step
                density = -0.5 * ((squared / variance.unsqueeze(1)).sum(-1) + variance.log().sum(-1).unsqueeze(1))
                logits = prior + functional.logsigmoid(score).unsqueeze(1) + density
        direction = mean / (mean.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return score.sigmoid().unsqueeze(-1) * direction, coupling

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, num_iterations={self.num_iterations}, "
            f"inverse_temperature={self.inverse_temperature}, variance_floor={self.variance_floor}"
        )
