"""Finding clips by name: the container does not matter, the owners' file names do."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

Listing = tuple[pd.DataFrame, list[str]]  # clips, one row per clip; and what is missing or odd, one sentence each
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus")


def clips(folder: Path, pattern: str) -> Listing:
    """Every audio file below ``folder`` whose relative path without suffix matches ``pattern`` wholly. The table has
    the column path and one of strings per named group of ``pattern``."""
    compiled = re.compile(pattern)
    rows, others = [], []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
            continue
        relative = file.relative_to(folder)
        match = compiled.fullmatch(relative.with_suffix("").as_posix())
        if match:
            rows.append({"path": relative.as_posix(), **match.groupdict()})
        else:
            others.append(relative.as_posix())
    notes = some(others, "audio file(s) bear other names and are not used")
    return pd.DataFrame(rows, columns=["path", *compiled.groupindex]), notes


def expected(number: int, of: int, what: str) -> list[str]:
    """One sentence when only ``number`` of an archive's ``of`` clips are available."""
    return [f"{of - number} of {of} {what} are not available"] if number < of else []


def absent(values: Iterable, column: pd.Series, sentence: str) -> list[str]:
    """One ``sentence``, "no clip of {}", that names the ``values`` that are nowhere in ``column``."""
    names = [str(value) for value in sorted(set(values) - set(column))]
    return [sentence.format(", ".join(names))] if names else []


def some(things: Iterable[str], what: str) -> list[str]:
    """One sentence if there are any of ``things``: how many, ``what`` is the matter with them, and the first."""
    things = list(things)
    return [f"{len(things)} {what}, e.g. {things[0]}"] if things else []
