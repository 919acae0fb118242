"""Pooling a sequence to one vector: its mean, or what attention weights."""

import torch
from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """Weighted mean over time; the weights are a softmax over the valid steps' scores.

    Source: Mirsamadi et al. 2017, P0's reference for its ATT baseline: one learned vector scores the steps.
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


class TopDownAttention(nn.Module):
    """Class scores from the product of a bottom-up map, the same for all classes, and a top-down map of each class.

    With steps x_t the maps are b . x_t and a_k . x_t, and the score of class k is the mean of their product over the
    valid steps. Source: Girdhar and Ramanan 2017, which P2 names for its CNN_GRU_Att: a bilinear form of rank one in
    place of a linear layer. The mean, where they sum over a fixed number of positions, lets clips of any length score
    alike.

    ``normalized``: make the bottom-up map a softmax over the valid steps instead, weights that sum to one.
    """

    def __init__(self, in_features: int, num_classes: int, *, normalized: bool = False) -> None:
        super().__init__()
        self.bottom_up = nn.Linear(in_features, 1, bias=False)
        self.top_down = nn.Linear(in_features, num_classes, bias=False)
        self.normalized = normalized
        nn.init.xavier_uniform_(self.bottom_up.weight)
        nn.init.xavier_uniform_(self.top_down.weight)

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """The bottom-up map over the number of steps, zero where ``mask`` is False: (B, T, F), (B, T) -> (B, T)."""
        scores = self.bottom_up(x).squeeze(-1)
        if not self.normalized:
            return (scores / mask.sum(1, keepdim=True).clamp_min(1)).masked_fill(~mask, 0.0)
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0.0)

    def attended(self, x: Tensor, mask: Tensor) -> Tensor:
        """Sum of the steps weighted by ``weights``: (B, T, F), (B, T) -> (B, F); ``top_down`` maps it to the scores."""
        weights = self.weights(x, mask)
        valid = x.masked_fill(~mask.unsqueeze(-1), 0.0).to(weights.dtype)
        return (weights.unsqueeze(1) @ valid).squeeze(1)  # (B, 1, T) @ (B, T, F)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, F), (B, T) -> (B, K)."""
        return self.top_down(self.attended(x, mask))
