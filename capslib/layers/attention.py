"""Pooling a sequence to one vector."""

from __future__ import annotations

from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """Weighted mean over time; the weights are a softmax over the valid steps' scores.

    Source: Mirsamadi et al. 2017, P0's reference for its ATT baseline: one learned vector scores the steps.

    Args:
        in_features: F.
    """

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.score = nn.Linear(in_features, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T) -> (B, F) and the weights, (B, T), zero where ``mask`` is False."""
        scores = self.score(x).squeeze(-1).masked_fill(~mask, float("-inf"))  # (B, T)
        none = ~mask.any(-1, keepdim=True)  # a softmax over minus infinity alone is not a number
        weights = scores.masked_fill(none, 0.0).softmax(-1).masked_fill(~mask, 0.0)
        return (weights.unsqueeze(1) @ x).squeeze(1), weights  # (B, 1, T) @ (B, T, F)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid steps: (B, T, F), (B, T) -> (B, F)."""
    valid = mask.unsqueeze(-1).to(x.dtype)
    return (x * valid).sum(1) / valid.sum(1).clamp_min(1.0)
