"""One exception for everything a user can mend: its message names the thing and says what to do."""

import difflib
from collections.abc import Iterable


class CapslibError(ValueError):
    """Bad input, in one sentence that names the file or the field and what to do about it."""


def choose(name: str, choices: Iterable[str], what: str) -> str:
    """Return ``name`` if it is one of ``choices``.

    Raises:
        CapslibError: with the nearest of ``choices``, for a misspelt name.
    """
    choices = sorted(choices)
    if name in choices:
        return name
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CapslibError(f"unknown {what} {name!r}: {hint}known are {', '.join(choices)}")
