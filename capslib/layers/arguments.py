"""The argument check of all layers, with one wording for each kind of error."""

import torch
from torch import Tensor


def check_sizes(least: int = 1, **sizes: int | None) -> None:
    """ValueError that names the first size or number of iterations below ``least``; None is a size left open."""
    for name, size in sizes.items():
        if size is not None and size < least:
            raise ValueError(f"{name}={size}: must be at least {least}")


def check_shape(name: str, x: Tensor, *expected: tuple[int | str, ...]) -> None:
    """ValueError unless ``x`` has one of the expected shapes, in which a letter stands for any size."""
    for shape in expected:
        if len(shape) == x.dim() and all(isinstance(a, str) or a == b for a, b in zip(shape, x.shape, strict=True)):
            return
    shapes = " or ".join("(" + ", ".join(map(str, shape)) + ")" for shape in expected)
    raise ValueError(f"{name} {tuple(x.shape)} does not fit: expected {shapes}")


def check_routing(
    u: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None, prior: Tensor | None, **sizes: int | None
) -> None:
    """ValueError that names the first argument of a routing rule that does not fit, see ``routing.route``.

    ``sizes``: the ``in_capsules``, ``out_capsules`` or ``out_features`` that a rule was built for; None for any.
    """
    check_shape("weight", weight, ("J", "F", "D"), ("I", "J", "F", "D"))
    *unshared, J, F, D = weight.shape
    check_shape("u", u, ("B", *(unshared or "I"), F))
    B, I, _ = u.shape
    if mask is not None:
        check_shape("mask", mask, (B, I))
        if mask.dtype != torch.bool:
            raise ValueError(f"mask is {mask.dtype}: expected torch.bool, True at valid input capsules")
    if bias is not None:
        check_shape("bias", bias, (J, D), (B, J, D))
    if prior is not None:
        sides = zip(reversed(prior.shape), (J, I, B), strict=False)
        if prior.dim() > 3 or any(a not in (1, b) for a, b in sides):
            raise ValueError(f"prior {tuple(prior.shape)} does not fit: expected what broadcasts to {(B, I, J)}")
    actual = {"in_capsules": I, "out_capsules": J, "out_features": D}
    for name, size in sizes.items():
        if size not in (None, actual[name]):
            raise ValueError(f"{name}={actual[name]}: the routing rule was built for {size}")
