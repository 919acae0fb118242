"""Which clips of a run a probe is given, and what a probe is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from capslib import corpora
from capslib.training import Part, RunConfig, load_parts


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
