"""EM routing: outputs are Gaussian clusters of votes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from capslib.layers import votes


class EMRouting(nn.Module):
    """Expectation-maximization of one diagonal Gaussian an output capsule (Hinton et al. 2018, procedure 1).

    For ``num_iterations`` passes t = 1..T, starting from equal shares r_ij = 1 / J of every input i:

        M-step  R_ij = a_i r_ij;  mu_jh, sigma2_jh: mean and variance of the votes V_ijh, weighted by R_ij
                cost_jh = (beta_u_j + log sigma_jh) sum_i R_ij
                a_j = sigmoid(lambda_t (beta_a_j - sum_h cost_jh J / (D N)))
        E-step  r_ij = a_j Normal(V_ij; mu_j, sigma2_j), divided by its sum over the outputs j

    Tight clusters are active, the more so the more votes they hold. The output is ``v_j = a_j mu_j / |mu_j|``.

    What differs from the paper, and why:

    * Input activations a_i: our inputs are vectors without one, so a_i is the mask: 1 at valid inputs, 0 elsewhere.
    * The evidence is divided by D N / J, the vote components that fall to an output when N valid inputs are shared out
      equally. The paper's layers have a fixed number of inputs and absorb this in lambda; over hundreds of steps the bare
      sum drives every activation to 0 or 1, and a long clip to other scores than a short one. N counts inputs and not
      shares: an output that gets fewer votes still has less evidence.
    * lambda_t = ``inverse_temperature`` * t / T: the paper says only that it grows by a fixed schedule.
    * Output poses are vectors, and the activation is returned as the length of the pose, which the margin loss reads; the
      length of mu_j itself is lost. Outputs without a mean (silence, no valid input) have length 0:
      |mu_j| is the root of the sum of squares plus 1e-12.
    * ``variance_floor`` is added to each variance, which the paper leaves to chance when votes coincide.
    * beta_u starts at log 10: votes that spread by 0.1, as with ``init_gain=0.1``, then cost nothing, and activations
      start near one half. ``prior`` is added to the logits of r in every pass.
    * No coordinate addition.

    Mind when matrices are shared by all inputs: a constant added to every step moves all votes and their means alike, so
    it turns the outputs but changes no length. Shared matrices then score how a clip varies along its steps, not where
    it lies. Matrices of each input's own (``in_capsules``) score agreement among the inputs, as in the paper.

    Args:
        out_capsules: J; each has its own beta_u and beta_a.
        num_iterations: passes, at least 1 (default 3).
        inverse_temperature: lambda of the last pass (default 1).
        variance_floor: in squared units of the votes (default 1e-4).
    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        out_capsules: int,
        num_iterations: int = 3,
        *,
        inverse_temperature: float = 1.0,
        variance_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        votes.at_least_one(out_capsules=out_capsules)
        if num_iterations < 1:
            raise ValueError(f"num_iterations={num_iterations}: routing needs at least one pass")
        for name, value in (("inverse_temperature", inverse_temperature), ("variance_floor", variance_floor)):
            if not value > 0:
                raise ValueError(f"{name}={value}: must be above 0")
        self.num_iterations = num_iterations
        self.inverse_temperature, self.variance_floor = inverse_temperature, variance_floor
        self.beta_u = nn.Parameter(torch.full((out_capsules,), math.log(10.0)))
        self.beta_a = nn.Parameter(torch.zeros(out_capsules))

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """
        Forms the votes: memory grows with I * J * D. Computes in float32 at least, whatever autocast says.

        Args:
            u: (B, I, F).
            weight: (J, F, D) shared, or (I, J, F, D).
            mask: True at valid inputs, (B, I).
            prior: log odds, broadcastable to (B, I, J).
            return_coupling: also return R of the last M-step.
        Returns:
            (B, J, D) with lengths in [0, 1); with ``return_coupling`` also (B, I, J), zero at masked inputs and summing to
            one over J elsewhere.
        Raises:
            ValueError: if shapes do not fit.
        """
        votes.check("EMRouting", u, weight, mask, out_capsules=len(self.beta_u))
        out = torch.promote_types(u.dtype, weight.dtype)
        with torch.autocast(u.device.type, enabled=False):
            dtype = votes.working_dtype(out)
            v, coupling = self._route(
                votes.silenced(u.to(dtype), mask), weight.to(dtype), mask, None if prior is None else prior.to(dtype)
            )
            v = votes.below_one(v, out)
        return (v, coupling.to(out)) if return_coupling else v

    def _route(self, u: Tensor, weight: Tensor, mask: Tensor | None, prior: Tensor | None) -> tuple[Tensor, Tensor]:
        cast = torch.einsum("bif,jfd->bijd" if weight.dim() == 3 else "bif,ijfd->bijd", u, weight)
        B, I, J, _ = cast.shape
        valid = (cast.new_ones(B, I) if mask is None else mask.to(cast.dtype)).unsqueeze(-1)  # a_i
        number = valid.sum(1).clamp_min(1.0)  # N
        prior = cast.new_zeros(J) if prior is None else prior
        beta_u, beta_a = self.beta_u.to(cast.dtype), self.beta_a.to(cast.dtype)
        logits = prior.expand(B, I, J)
        for iteration in range(1, self.num_iterations + 1):
            share = logits.log_softmax(-1)
            coupling = share.exp() * valid
            # Over the inputs in logarithms too: an output whose shares underflow keeps a mean and a variance.
            hidden = share.masked_fill(valid == 0, torch.finfo(share.dtype).min)
            among = hidden.softmax(1).unsqueeze(-1)
            mean = (among * cast).sum(1)
            squared = (cast - mean.unsqueeze(1)).square()
            variance = (among * squared).sum(1) + self.variance_floor
            amount = coupling.sum(1) * J / number
            cost = amount * (beta_u + 0.5 * variance.log().mean(-1))
            score = self.inverse_temperature * iteration / self.num_iterations * (beta_a - cost)
            if iteration < self.num_iterations:
                density = -0.5 * ((squared / variance.unsqueeze(1)).sum(-1) + variance.log().sum(-1).unsqueeze(1))
                logits = prior + functional.logsigmoid(score).unsqueeze(1) + density
        direction = mean / (mean.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return score.sigmoid().unsqueeze(-1) * direction, coupling

    def extra_repr(self) -> str:
        return (
            f"out_capsules={len(self.beta_u)}, num_iterations={self.num_iterations}, "
            f"inverse_temperature={self.inverse_temperature}, variance_floor={self.variance_floor}"
        )
