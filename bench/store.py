"""Measurements on disk: ``data/measured/<kind of machine>/<part>.json``, rewritten after every entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import machine, timing
from capslib import keys, paths
from capslib.errors import CapslibError, choose

PARTS = ("routing", "growth", "features", "training", "emotion", "reproduce")
# Where the code begins whose version an entry names.
FEATURES, ROUTING = ("capslib.features", "extract"), ("capslib.layers.routing", "route")
# All that one kind of machine measured: by part, then by entry.
Measured = Mapping[str, Mapping[str, dict]]


@dataclass(frozen=True)
class Store:
    """Where a part writes what it measures.

    An entry is what was measured together, in turns: ratios are right within one and meaningless across two. A new
    entry replaces the old one of its name and leaves the others, so an interrupted bench loses nothing.

    Attributes:
        part: one of ``PARTS``.
        device: "cpu" or "cuda".
        repeats: turns that count; fewer than 7 make every entry a trial.
        folder: of all kinds of machines; default ``data/measured``.
    """

    part: str
    device: str = "cpu"
    repeats: int = timing.REPEATS
    folder: Path | None = None

    @property
    def file(self) -> Path:
        """The file of this part on this kind of machine."""
        return (self.folder or default_folder()) / machine.kind(self.device) / f"{self.part}.json"

    def add(self, name: str, entry: Mapping[str, object]) -> None:
        """Write an entry, with the machine, the date and the version of the code that decides it."""
        all_entries = entries(self.file)
        all_entries[name] = {
            "machine": machine.describe(self.device),
            "code": keys.code_version([FEATURES if self.part == "features" else ROUTING], ("mfcc", "spectrogram")),
            "repeats": self.repeats,
            "trial": self.repeats < timing.REPEATS,
            **entry,
        }
        paths.write_text(self.file, json.dumps(all_entries, indent=1) + "\n")


def default_folder() -> Path:
    """``data/measured`` of the project: a folder per kind of machine, a file per part."""
    return paths.root() / "data" / "measured"


def entries(file: Path) -> dict[str, dict]:
    """The entries in a part's file, by name; none if there is no file yet.

    Raises:
        CapslibError: if it is not what ``make bench`` writes.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CapslibError(f"{paths.shown(file)} is not readable ({error}): delete it and run `make bench`") from None
    if not isinstance(content, dict):
        raise CapslibError(f"{paths.shown(file)} holds no measurements: delete it and run `make bench`")
    return content


def read(kind: str, folder: Path | None = None) -> Measured:
    """All that one kind of machine measured.

    Args:
        kind: of machine, a folder of ``data/measured``: "two-core-cpu".
        folder: instead of ``data/measured``.
    Raises:
        CapslibError: for a machine without measurements, naming those that have some.
    """
    folder = folder or default_folder()
    known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not known:
        raise CapslibError("nothing has been measured yet: run `make bench`")
    choose(kind, known, "machine")
    return {part: entries(folder / kind / f"{part}.json") for part in PARTS}


def read_gpus(folder: Path | None = None) -> dict[str, Measured]:
    """``read`` for every kind of machine that measured on a GPU, by kind."""
    folder = folder or default_folder()
    kinds = {path.name: read(path.name, folder) for path in sorted(folder.glob("*")) if path.is_dir()}
    return {
        kind: measured
        for kind, measured in kinds.items()
        if any(entry["machine"]["device"] == "cuda" for part in measured.values() for entry in part.values())
    }
