"""Measurements on disk: one file a part and kind of machine, written anew after every entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import machine, timing
from bench import results as speed
from capslib import paths
from capslib.records import code_version


@dataclass(frozen=True)
class Shelf:
    """Where a part keeps what it measures.

    An entry is what was measured together, in turns: ratios are right within one and meaningless across two. A new entry
    replaces the old one of its name and leaves the others, so an interrupted bench loses nothing.

    Attributes:
        part: "routing", "growth", "features", "training", "emotion" or "reproduce".
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
        return (self.folder or speed.folder()) / machine.kind(self.device) / f"{self.part}.json"

    def keep(self, name: str, entry: Mapping[str, object]) -> None:
        """Write an entry, with the machine, the date and the version of the code that decides it."""
        entries = speed.entries(self.file)
        entries[name] = {
            "machine": machine.describe(self.device),
            "code": code_version("capslib.features" if self.part == "features" else "capslib.layers.routing"),
            "repeats": self.repeats,
            "trial": self.repeats < timing.REPEATS,
            **entry,
        }
        paths.write_text(self.file, json.dumps(entries, indent=1) + "\n")
