"""A layer of capsules."""

import torch
from torch import Tensor, nn

from capslib.layers.arguments import check_sizes
from capslib.layers.routing import DynamicRouting


class CapsuleLayer(nn.Module):
    """Fully connected capsules: every input vector votes for every output capsule, and routing weights the votes.

    Source: Sabour et al. 2017, section 2; over the steps of a recurrent network, P0 section 4.

    Args:
        in_features: size of an input vector, F.
        out_capsules: J, the classes in a last layer.
        out_features: size of an output capsule, D (16 in P0).
        num_iterations: iterations of dynamic routing (default 3), see ``route``; ignored when ``routing`` is given.
        in_capsules: number of inputs I for unshared weights, ``weight`` (I, J, D, F); None (default) shares the weight
            (J, F, D) among all inputs, so that any number of steps goes in.
        init_gain: factor on Glorot's range at the start. With 1.0 the sum over hundreds of steps saturates ``squash``,
            and nothing is learned; 0.1 (default) trained at once on the validation parts of four corpora.
        bias: add a learned vector of each output capsule to every vote for it (default no: P0 has none; P2 equation 3).
        prior: start the routing logits from a learned value of each output capsule (default no).
        routing: another rule, see ``ROUTINGS``; default ``DynamicRouting``.
    Raises:
        ValueError: if a size is below 1; when called, if shapes do not fit.

    Example:
        >>> layer = CapsuleLayer(in_features=256, out_capsules=10, out_features=16)
        >>> layer(torch.zeros(4, 300, 256)).shape
        torch.Size([4, 10, 16])
    """

    def __init__(
        self,
        in_features: int,
        out_capsules: int,
        out_features: int,
        *,
        num_iterations: int = 3,
        in_capsules: int | None = None,
        init_gain: float = 0.1,
        bias: bool = False,
        prior: bool = False,
        routing: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            in_features=in_features, out_capsules=out_capsules, out_features=out_features, in_capsules=in_capsules
        )
        if in_capsules is None:
            self.weight = nn.Parameter(torch.empty(out_capsules, in_features, out_features))
        else:
            self.weight = nn.Parameter(torch.empty(in_capsules, out_capsules, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_capsules, out_features)) if bias else None
        self.prior = nn.Parameter(torch.zeros(out_capsules)) if prior else None
        self.routing = routing if routing is not None else DynamicRouting(num_iterations)
        self.init_gain = init_gain
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot's uniform range for a matrix of in_features x out_features, times ``init_gain``."""
        limit = self.init_gain * (6.0 / sum(self.weight.shape[-2:])) ** 0.5
        nn.init.uniform_(self.weight, -limit, limit)

    def forward(
        self, u: Tensor, mask: Tensor | None = None, return_coupling: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, I, in_features) -> (B, out_capsules, out_features), of lengths (``v.norm(dim=-1)``) in [0, 1).

        Args:
            mask: True at valid inputs, (B, I); a clip padded in a batch gives the same capsules as alone.
            return_coupling: also return the coupling of the inputs, (B, I, out_capsules).
        """
        return self.routing(
            u, self.matrices, mask=mask, bias=self.bias, prior=self.prior, return_coupling=return_coupling
        )

    @property
    def matrices(self) -> Tensor:
        """The weight as ``route`` takes it: (J, F, D), or (I, J, F, D)."""
        return self.weight if self.weight.dim() == 3 else self.weight.transpose(-1, -2)

    def extra_repr(self) -> str:
        *unshared, J, F, D = self.matrices.shape
        return f"in_features={F}, out_capsules={J}, out_features={D}, in_capsules={unshared[0] if unshared else None}"
