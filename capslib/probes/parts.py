"""What a probe is, which clips of a run it is given, and what probes share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from capslib import corpora
from capslib.errors import CapslibError
from capslib.training import Part, RunConfig, load_parts

Module = TypeVar("Module", bound=nn.Module)


class Probe(NamedTuple):
    """``measure``: from a model and what ``given`` returns for its run to numbers that JSON can hold."""

    measure: Callable[..., dict]
    given: Callable[[RunConfig], Sequence[object]]


def test_part(config: RunConfig) -> tuple[Part]:
    """The test clips of a run; of one with a source, without what the source says of them."""
    return (load_parts(corpora.load(config.corpus), config)["test"],)


def train_and_test(config: RunConfig) -> tuple[Part, Part]:
    """The training and the test clips of a run."""
    parts = load_parts(corpora.load(config.corpus), config)
    return parts["train"], parts["test"]


def find_module(model: nn.Module, kind: type[Module], lacking: str) -> Module:
    """The model itself or its first module of a class. Raises CapslibError if there is none; ``lacking`` says what the
    model does not have, and which model does."""
    module = next((m for m in model.modules() if isinstance(m, kind)), None)
    if module is None:
        raise CapslibError(f"{type(model).__name__} has no {lacking}")
    return module


def single_clips(part: Part) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features (1, T, D), length (1,) and target of one clip after the other, which needs no padding."""
    for index in range(len(part)):
        yield part.batch([index], torch.device("cpu"))


def rounded(values: Tensor, decimals: int = 4) -> list | float:
    """Numbers as JSON holds them: a list, nested as the tensor's dimensions, or a float for a scalar."""
    return torch.round(values.double(), decimals=decimals).tolist()


def mean_of(values: Sequence[Tensor], decimals: int = 4) -> float:
    """Rounded mean of scalars, one per clip."""
    return rounded(torch.stack(list(values)).mean(), decimals)


def by(results: Sequence[Mapping], *fields: str) -> dict[object, list[Mapping]]:
    """Results of each value of a field, or of each combination of several, in their order."""
    groups: dict[object, list[Mapping]] = {}
    for result in results:
        groups.setdefault(itemgetter(*fields)(result), []).append(result)
    return groups
