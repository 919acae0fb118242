"""The nonlinearity of capsules: a vector's length becomes a probability."""

import torch
from torch import Tensor


def squash(s: Tensor, dim: int = -1) -> Tensor:
    """Shrink vectors to lengths below one and keep their direction (Sabour et al. 2017, equation 1).

    Zero vectors stay zero, with a finite gradient. Half precision is squashed in float32 and returned as it came.

    Args:
        s: (..., D).
        dim: the axis of the vector's components (default the last).
    """
    wide = s.float() if s.dtype in (torch.float16, torch.bfloat16) else s
    squared = (wide * wide).sum(dim, keepdim=True)
    tiny = torch.finfo(wide.dtype).tiny ** 0.5
    return (wide * squared / ((1.0 + squared) * (squared + tiny).sqrt())).to(s.dtype)


def squash_backward(s: Tensor, dv: Tensor) -> Tensor:
    """Gradient of ``s`` from that of ``squash(s)``, both (..., D)."""
    squared = (s * s).sum(-1, keepdim=True)
    root = (squared + torch.finfo(s.dtype).tiny ** 0.5).sqrt()
    factor = squared / ((1.0 + squared) * root)  # v = s * factor(|s|^2)
    slope = 1.0 / ((1.0 + squared).square() * root) - 0.5 * factor / root.square()
    return factor * dv + (2.0 * slope * (s * dv).sum(-1, keepdim=True)) * s
