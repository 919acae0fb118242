"""A grid on the tiny corpus, and its records as files."""

from __future__ import annotations

from pathlib import Path

from capslib import records, study

MODELS = ("lstm", "caps")
SIZES = {"seeds": range(3), "epochs": 12, "batch_size": 8}


def tones_grid(**changes) -> study.Grid:
    return study.grid(["folder:tones"], MODELS, **(SIZES | changes))


def files(reports: Path) -> dict[str, Path]:
    """Records there are, by the run they are of; half-written ones are hidden."""
    return {path.name: path for path in (reports / "quick" / "records").glob("[!.]*.json")}


def contents(reports: Path) -> dict[str, dict]:
    """What must be equal when the same grid is run again, by run."""
    return {name: records.comparable(records.read(path)) for name, path in files(reports).items()}
