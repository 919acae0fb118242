"""The papers, each declared in one file: its systems, its corpora, and its claims, which the ledger answers.

A new paper is a new file here with a ``PAPER``; ``declared`` finds it, as ``models.entries`` finds the models.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from capslib.claims import Claim
from capslib.errors import choose
from capslib.study import Grid, Runs


class Role(NamedTuple):
    """A corpus that a paper uses: the paper's name for it, what is classified, and where it is or what stands in. The
    ``role`` of our corpora's tasks names it: "P0 VCTK"."""

    corpus: str
    task: str
    how_to_get: str


class Paper(NamedTuple):
    """What a paper says, and what answers it.

    Attributes:
        key: "P0".
        title: its title, or what it is about where our copy has none.
        corpora: that it uses.
        claims: by what they say, in our words.
        grids: from a profile to the grids that the claims need.
        derived: from the runs of these grids to those with what is computed from them, such as averages of two systems.
    """

    key: str
    title: str
    corpora: tuple[Role, ...] = ()
    claims: Mapping[str, Claim] = MappingProxyType({})
    grids: Callable[[str], list[Grid]] = lambda profile: []
    derived: Callable[[Runs], Runs] = lambda runs: runs


def declared() -> tuple[Paper, ...]:
    """All papers, by the names of their files: the ``PAPER`` of each file in this folder that has one."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(module.PAPER for module in modules if hasattr(module, "PAPER"))


def of_profile(value: str | Mapping[str, str], profile: str) -> str:
    """A parameter of a notebook that may differ between profiles, or be given as one value for the profile at hand.
    Raises CapslibError for an unknown profile, with the nearest."""
    return value if isinstance(value, str) else value[choose(profile, value, "profile")]
