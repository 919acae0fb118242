"""What the routing rules beside dynamic routing share: votes, argument checks and precision.

Letters as in ``routing``: B batch, I input capsules, F their size, J output capsules, D their size.
"""

import torch
from torch import Tensor, nn

from capslib.layers.arguments import check_routing, check_sizes


def form_votes(u: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """All votes ``u_i @ weight_ij + bias_j``, (B, I, J, D); arguments as for ``routing.route``."""
    votes = torch.einsum("bif,jfd->bijd" if weight.dim() == 3 else "bif,ijfd->bijd", u, weight)
    return votes if bias is None else votes + bias.unsqueeze(-3)  # over the inputs


class Votes:
    """Sums and dot products of the votes, which are not formed where the inputs share the weight.

    Memory then grows with I * F and not with I * J * D. ``bias``: (B, J, D), or None.
    """

    def __init__(self, u: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.u, self.weight, self.bias = u, weight, bias
        self.formed = None  # (B, J, I, D)
        if weight.dim() == 4:
            self.formed = torch.einsum("bif,ijfd->bjid", u, weight).contiguous()

    def sum(self, coupling: Tensor) -> Tensor:
        """Votes weighted by ``coupling`` (B, I, J) and summed over the inputs: (B, J, D)."""
        shares = coupling.transpose(1, 2)  # (B, J, I)
        if self.formed is not None:
            s = (shares.unsqueeze(2) @ self.formed).squeeze(2)  # (B, J, 1, I) @ (B, J, I, D)
        else:
            s = ((shares @ self.u).unsqueeze(2) @ self.weight).squeeze(2)  # (B, J, 1, F) @ (J, F, D)
        return s if self.bias is None else s + shares.sum(-1, keepdim=True) * self.bias

    def agreement(self, pose: Tensor) -> Tensor:
        """Dot product of each vote with its output's ``pose`` (B, J, D): (B, I, J)."""
        column = pose.unsqueeze(-1)  # (B, J, D, 1)
        if self.formed is not None:
            products = (self.formed @ column).squeeze(-1).transpose(1, 2)
        else:
            products = self.u @ (self.weight @ column).squeeze(-1).transpose(1, 2)  # (B, I, F) @ (B, F, J)
        return products if self.bias is None else products + (pose * self.bias).sum(-1).unsqueeze(1)


class VoteRouting(nn.Module):
    """Base of the rules beside dynamic routing; a rule defines ``route_votes``.

    ``sizes``: ``in_capsules``, ``out_capsules`` and ``out_features`` of the layer the rule is for; None for any. A
    ValueError if one is below 1; when called, if shapes do not fit each other or these sizes.
    """

    def __init__(self, **sizes: int | None) -> None:
        super().__init__()
        check_sizes(**sizes)
        self.sizes = sizes

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Arguments as for ``routing.route``. Computes in float32 at least, under autocast too.

        Returns:
            (B, J, D) with lengths in [0, 1), of the dtype of ``u`` and ``weight``; with ``return_coupling`` also the
            coupling of the last iteration, (B, I, J), zero at masked inputs and summing to one over J elsewhere.
        """
        check_routing(u, weight, mask, bias, prior, **self.sizes)
        out = torch.promote_types(u.dtype, weight.dtype)
        dtype = torch.promote_types(out, torch.float32)
        with torch.autocast(u.device.type, enabled=False):
            u, weight = u.to(dtype), weight.to(dtype)
            if mask is not None:  # whatever pads, NaN as well, reaches no output and no gradient
                u = u.masked_fill(~mask.unsqueeze(-1), 0.0)
            valid = u.new_ones(*u.shape[:2], 1) if mask is None else mask.unsqueeze(-1).to(dtype)
            bias = None if bias is None else bias.to(dtype).expand(len(u), -1, -1)
            prior = u.new_zeros(weight.shape[-3]) if prior is None else prior.to(dtype)
            v, coupling = self.route_votes(u, weight, valid, bias, prior)
            # Shortened by a few roundings: a length that rounds to one would leave [0, 1).
            v = (v * (1.0 - 4.0 * torch.finfo(dtype).eps - torch.finfo(out).eps)).to(out)
        return (v, coupling.to(out)) if return_coupling else v

    def route_votes(
        self, u: Tensor, weight: Tensor, valid: Tensor, bias: Tensor | None, prior: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output capsules, (B, J, D), and their coupling, (B, I, J), zero at masked inputs.

        All arguments are of the dtype to compute in; ``u`` is zero at masked inputs, ``valid`` the mask as ones and
        zeros, (B, I, 1), ``bias`` (B, J, D) or None, ``prior`` broadcastable to (B, I, J).
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self.sizes.items())
