"""Sequential and recurrent capsules (P1 section 2; P2 sections IV-B, IV-C): of sliding windows, then of the clip.

Letters: B batch, C channels, T steps, Q bins of frequency, N windows, I primary capsules of a window, F their size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from capslib.layers.arguments import check_shape, check_sizes
from capslib.layers.capsules import CapsuleLayer
from capslib.layers.squash import squash


def emotion_vector(v: Tensor) -> Tensor:
    """Capsules side by side, then their lengths (P2 equation 8): (..., J, D) -> (..., J * (D + 1))."""
    return torch.cat([v.flatten(-2), v.norm(dim=-1)], dim=-1)


def count_windows(lengths: Tensor, window: int, shift: int) -> Tensor:
    """Number of windows that cover each clip, at least one: (B,) -> (B,). None starts behind the last step."""
    return 1 + torch.div((lengths - max(window, shift)).clamp_min(0) + shift - 1, shift, rounding_mode="floor")


def slide(x: Tensor, lengths: Tensor, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Cut sequences into windows up to the last step, overlapping where ``shift`` < ``window``; zeros pad the last.

    Sequences (B, T, ...), zero past their lengths (B,) -> windows (B, N, window, ...), and True where their steps lie
    within the sequence, (B, N, window).
    """
    T = x.shape[1]
    N = 1 + max(0, -(-(T - max(window, shift)) // shift))
    missing = (N - 1) * shift + window - T
    padded = functional.pad(x, (0, 0) * (x.dim() - 2) + (0, max(0, missing)))
    steps = torch.arange(N, device=x.device)[:, None] * shift + torch.arange(window, device=x.device)  # (N, window)
    # (B, T, ...) -> (B, N, ..., window) -> (B, N, window, ...)
    return padded.unfold(1, window, shift).movedim(-1, 2), steps < lengths[:, None, None]


class PrimaryCapsules(nn.Module):
    """Convolutions side by side; the channels of each at one position are a capsule (P2 section V-C).

    Args:
        in_channels: C.
        num_convolutions: K (default 8).
        out_features: channels of each, the size F of a capsule (default 8).
        kernel_size: odd (default 5); the map is padded with zeros to the same size.
        pool: bins of frequency that are pooled to one, by the maximum (default 1).
        squashed: shrink capsules to lengths below one, as Sabour et al. do; P2 does not say (default yes).
    """

    def __init__(
        self,
        in_channels: int,
        num_convolutions: int = 8,
        out_features: int = 8,
        *,
        kernel_size: int = 5,
        pool: int = 1,
        squashed: bool = True,
    ) -> None:
        super().__init__()
        self.num_convolutions, self.pool, self.squashed = num_convolutions, pool, squashed
        self.convolutions = nn.Conv2d(
            in_channels, num_convolutions * out_features, kernel_size, padding=kernel_size // 2
        )
        for weight in self.convolutions.weight.chunk(num_convolutions):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.convolutions.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, Q) -> (B, T, I, F) with the I = ceil(Q / pool) * K capsules of each step."""
        x = self.convolutions(x)
        if self.pool > 1:
            x = functional.max_pool2d(x, (1, self.pool), ceil_mode=True)
        x = x.unflatten(1, (self.num_convolutions, -1))  # (B, K, F, T, Q)
        u = x.permute(0, 3, 4, 1, 2).flatten(2, 3)  # (B, T, Q * K, F)
        return squash(u) if self.squashed else u


class SequentialCapsules(nn.Module):
    """Primary capsules of each window are routed to window capsules, and the windows' emotion vectors to the clip's.

    Source: P1 section 2.2; P2 section IV-B, equations 3 to 8. All windows share all weights; those of a window's
    positions are unshared. The bias of a vote depends on the output capsule alone, which P2's parameter counts require
    though its equation 3 writes b_ij. Steps past a clip's end have no capsules; zeros pad short clips to one window.

    Args:
        in_channels, in_bins: C and Q of the map.
        window, shift: in steps of the map (10 and 5: P2's 40 and 20 frames, pooled by four).
        out_capsules, out_features: of a clip (4 and 16).
        window_capsules, window_features: of a window (8 and 8).
        num_convolutions, primary_features, kernel_size: see ``PrimaryCapsules``.
        pool: bins pooled to one (default 8), before the convolutions if ``pool_before`` (default), else after them: P2
            leaves it open, and before is eight times less work.
        squashed: see ``PrimaryCapsules``.
        num_iterations: iterations of both routings (default 3).
        init_gain: factor on Glorot's range of the capsules' weights (default 1).
    Raises:
        ValueError: if a size is below 1; when called, if a map has other channels or bins.

    Example:
        >>> layer = SequentialCapsules(in_channels=16, in_bins=128)
        >>> layer(torch.zeros(2, 16, 50, 128), torch.tensor([50, 20])).shape
        torch.Size([2, 4, 16])
    """

    def __init__(
        self,
        in_channels: int,
        in_bins: int,
        *,
        window: int = 10,
        shift: int = 5,
        out_capsules: int = 4,
        out_features: int = 16,
        window_capsules: int = 8,
        window_features: int = 8,
        num_convolutions: int = 8,
        primary_features: int = 8,
        kernel_size: int = 5,
        pool: int = 8,
        pool_before: bool = True,
        squashed: bool = True,
        num_iterations: int = 3,
        init_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(window=window, shift=shift, pool=pool, in_bins=in_bins)
        self.window, self.shift, self.in_channels, self.in_bins = window, shift, in_channels, in_bins
        self.pool = pool if pool_before else 1
        pool_after = 1 if pool_before else pool
        self.primary = PrimaryCapsules(
            in_channels, num_convolutions, primary_features, kernel_size=kernel_size, pool=pool_after, squashed=squashed
        )
        options = {"num_iterations": num_iterations, "init_gain": init_gain, "bias": True}
        in_capsules = window * -(-in_bins // pool) * num_convolutions
        self.window_layer = CapsuleLayer(
            primary_features, window_capsules, window_features, in_capsules=in_capsules, **options
        )
        self.vector_features = window_capsules * (window_features + 1)
        self.clip_layer = CapsuleLayer(self.vector_features, out_capsules, out_features, **options)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T, Q), zero past a length, and steps (B,) -> (B, out_capsules, out_features) of lengths in [0, 1)."""
        v = self.window_vectors(x, lengths)
        return self.clip_layer(emotion_vector(v), self.covered(v, lengths))

    def covered(self, v: Tensor, lengths: Tensor) -> Tensor:
        """True at the windows that a clip has: those of ``window_vectors`` and (B,) -> (B, N)."""
        return torch.arange(v.shape[1], device=v.device) < count_windows(lengths, self.window, self.shift)[:, None]

    def window_vectors(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Capsules of each window: (B, C, T, Q), (B,) -> (B, N, window_capsules, window_features)."""
        check_shape("x", x, ("B", self.in_channels, "T", self.in_bins))
        if self.pool > 1:
            x = functional.max_pool2d(x, (1, self.pool), ceil_mode=True)
        windows, mask = slide(x.transpose(1, 2), lengths, self.window, self.shift)  # (B, N, window, C, Q)
        u = self.primary(windows.flatten(0, 1).transpose(1, 2))  # (B * N, window, capsules of a step, F)
        mask = mask.unsqueeze(-1).expand(-1, -1, -1, u.shape[2]).flatten(2)  # (B, N, I)
        u = u.flatten(1, 2).unflatten(0, mask.shape[:2])  # (B, N, I, F)
        return self.route_windows(u, mask)

    def route_windows(self, u: Tensor, mask: Tensor) -> Tensor:
        """(B, N, I, F), (B, N, I) -> (B, N, window_capsules, window_features)."""
        return self.window_layer(u.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, u.shape[:2])


class RecurrentCapsules(SequentialCapsules):
    """Sequential capsules whose votes also depend on the emotion vector o of the window before.

    Source: P1 section 2.3; P2 section IV-C, equations 9 and 10. All primary capsules share one matrix W^o, as P2's
    parameter counts require, and W^o o is added to each vote before coupling; o is zero before the first window.
    Arguments are those of ``SequentialCapsules``.
    """

    def __init__(self, in_channels: int, in_bins: int, **options: object) -> None:
        super().__init__(in_channels, in_bins, **options)
        self.recurrent = nn.Linear(self.vector_features, self.window_layer.bias.numel(), bias=False)
        nn.init.xavier_uniform_(self.recurrent.weight)

    def route_windows(self, u: Tensor, mask: Tensor) -> Tensor:
        """(B, N, I, F), (B, N, I) -> (B, N, window_capsules, window_features), window after window."""
        layer, outputs = self.window_layer, []
        previous = u.new_zeros(len(u), self.vector_features)  # o
        for capsules, valid in zip(u.unbind(1), mask.unbind(1), strict=True):
            feedback = self.recurrent(previous).unflatten(-1, layer.bias.shape)  # W^o o, (B, J, D)
            outputs.append(layer.routing(capsules, layer.matrices, mask=valid, bias=layer.bias + feedback))
            previous = emotion_vector(outputs[-1])
        return torch.stack(outputs, dim=1)
