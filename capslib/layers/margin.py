"""The loss on the lengths of class capsules."""

from torch import Tensor, nn


class MarginLoss(nn.Module):
    """Lengths above 0.9 for classes that are present, below 0.1 for others (P0 equation 1; Sabour et al., equation 4).

    Args:
        positive_margin, negative_margin: m+ = 0.9 and m- = 0.1.
        down_weighting: lambda of absent classes; 0.5, and 1 in P0's multi-label experiments.
    """

    def __init__(self, positive_margin: float = 0.9, negative_margin: float = 0.1, down_weighting: float = 0.5) -> None:
        super().__init__()
        self.positive_margin, self.negative_margin = positive_margin, negative_margin
        self.down_weighting = down_weighting

    def forward(self, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch of the sum over classes: lengths (B, J), class indices (B,) or multi-hot (B, J) -> ()."""
        if targets.dim() == 1:
            targets = nn.functional.one_hot(targets, lengths.shape[-1])
        present = targets.to(lengths.dtype)
        missed = (self.positive_margin - lengths).clamp_min(0.0).square()
        false = (lengths - self.negative_margin).clamp_min(0.0).square()
        return (present * missed + self.down_weighting * (1.0 - present) * false).sum(-1).mean()
