"""Records of a grid, as tables, tests and figures read them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

import pandas as pd

from capslib.errors import choose
from capslib.study.folders import store
from capslib.study.grids import Grid, Run
from capslib.training import RunConfig


@dataclass(frozen=True)
class Runs:
    """Records of a grid.

    Attributes:
        grid: what was asked.
        records: those there are, in the grid's order, each with the name of its ``system``.
        missing: runs without a record.
        older: keys of records of other code or data than today's.
        notes: files that are no records of this version.
    """

    grid: Grid
    records: tuple[dict, ...]
    missing: tuple[Run, ...]
    older: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """One row per run: what was run, its accuracies, parameters, clips, seconds and key."""
        rows = [{name: value(record) for name, value in _COLUMNS.items()} for record in self.records]
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    def of(self, **wanted: object) -> list[dict]:
        """Records of these values, of the configuration or ``system``: ``runs.of(corpus="fsdd:digit", system="caps")``.

        Raises:
            CapslibError: for an unknown field, with the nearest.
        """
        known = ["system", *(field.name for field in fields(RunConfig))]
        sought = {choose(name, known, "field of a run"): value for name, value in wanted.items()}
        defaults = {f.name: f.default for f in fields(RunConfig)}
        values = [{**defaults, **record["config"], "system": record["system"]} for record in self.records]
        sought = json.loads(json.dumps(sought))  # records hold lists for tuples
        return [r for r, v in zip(self.records, values, strict=True) if all(v[n] == s for n, s in sought.items())]


_COLUMNS = {
    "corpus": lambda r: r["config"]["corpus"],
    "system": lambda r: r["system"],
    "model": lambda r: r["config"]["model"],
    "options": lambda r: ", ".join(f"{name}={value}" for name, value in r["config"]["options"]),
    "split": lambda r: r["config"]["split"],
    "seed": lambda r: r["config"]["seed"],
    "accuracy": lambda r: r["test"]["accuracy"],
    "unweighted_accuracy": lambda r: r["test"]["unweighted_accuracy"],
    "validation_accuracy": lambda r: r["validation"]["accuracy"],
    "train_accuracy": lambda r: r["train"]["accuracy"],
    "chosen_epoch": lambda r: r["chosen_epoch"],
    "parameters": lambda r: r["parameters"],
    "train_clips": lambda r: r["data"]["clips"]["train"],
    "test_clips": lambda r: r["data"]["clips"]["test"],
    "seconds": lambda r: r["provenance"]["seconds"],
    "key": lambda r: r["key"],
}


def recorded(*grids: Grid) -> Runs:
    """Runs of these grids (of one profile) that have a record of today's code and data; there may be none."""
    runs = tuple(dict.fromkeys(run for grid in grids for run in grid.runs))
    cards: Mapping[str, dict] = {key: card for grid in grids for key, card in grid.cards.items()}
    absent = {key: how for grid in grids for key, how in grid.absent.items()}
    records = store(grids[0].profile)
    pairs = [(run, records.get(run.key)) for run in runs]
    return Runs(
        Grid(grids[0].profile, runs, cards, absent),
        tuple(record | {"system": run.system} for run, record in pairs if record),
        tuple(run for run, record in pairs if not record),
    )
