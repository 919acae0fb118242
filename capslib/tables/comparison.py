"""A paper's numbers with ours below them, never in one row."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from IPython.display import HTML

from capslib import statistics
from capslib.errors import CapslibError, choose
from capslib.published import values
from capslib.statistics import NOT_YET, Interval, metric_value
from capslib.study import Runs
from capslib.tables.style import NOT_AVAILABLE, show, titled
from capslib.tables.summaries import evidence, extent, source_note

Value = Interval | float | str | None


@dataclass(frozen=True)
class _Cell:
    """What stands in one column of a row: a metric of a system, and the paper's number."""

    system: str
    metric: str
    printed: float | None


class _Line(NamedTuple):
    """A row of the paper's table, or one of ours below it: what it is about, and what stands in each column."""

    row: str
    corpus: str
    evidence: str
    source: str
    values: dict[str, Value]


def results(
    runs: Runs,
    rows: str | Mapping[str, str | tuple[str, str] | None],
    columns: str | Sequence[str] | Mapping[str, str],
    published: tuple[str, str],
    name: str,
    out: Path,
    metrics: str | Mapping[str, str] = "accuracy",
    corpus: str = "",
) -> HTML:
    """A paper's table with our results below each of its rows: mean and 95% interval, on seeds that all systems have.

    Systems are in the columns, below the paper's corpora or classes, or in the rows, beside one or several metrics::

        results(runs, rows="corpus", columns={"caps": "the paper's column"}, ...)
        results(runs, rows={"CNN_GRU": "the paper's row"}, columns="metric", metrics={"WA": "accuracy"}, ...)

    Args:
        runs: of the systems.
        rows: "corpus": the paper's corpora in alphabetical order, ours of the same role below each, those of none
            last. "class": the paper's classes, and their recall on all our corpora. Or our systems, each with the
            paper's row, or its row and column where the columns are not the metrics; None if the paper has no such.
        columns: "metric" for systems in the rows; else our systems, each with the paper's column, by default ``title``.
        published: paper and table, as in ``data/published/``.
        name, out: see ``show``.
        metrics: of the test part, by the paper's name for each; one alone is named as ours is, with spaces.
        corpus: that the paper's numbers are of, where the rows are no corpora.
    Raises:
        CapslibError: if the paper's table has no such row, column or metric, or if neither or both axes have systems.
    """
    if (columns == "metric") != isinstance(rows, Mapping):
        raise CapslibError('give systems as rows with columns="metric", or as columns with rows="corpus" or "class"')
    axis = "system" if columns == "metric" else choose(rows, ("corpus", "class"), "kind of rows")
    systems = rows if axis == "system" else titled(columns)
    metrics = metrics if isinstance(metrics, Mapping) else {metrics.replace("_", " "): metrics}
    entries = _entries(axis, systems, metrics, published)
    lines = list(_lines(runs, axis, entries, published, corpus))
    frame = pd.DataFrame(line._asdict() for line in lines)
    cells = pd.DataFrame({column: _text(value) for column, value in line.values.items()} for line in lines).fillna("")
    bold = pd.DataFrame(_best(entries[line.row], line.values) for line in lines)
    order = ["corpus", "evidence", "source", *cells] if axis == "corpus" else [*_Line._fields[:3], *cells, "source"]
    titles = {"row": axis, "source": "from" if axis == "corpus" else "runs"}
    frame = pd.concat([frame, cells], axis=1)[order].rename(columns=titles)
    bold = bold.reindex(columns=order, fill_value=False).rename(columns=titles)
    caption = (
        f"{' '.join(published)}: {', '.join(metrics)} as published{f' on {corpus}' if corpus else ''}, and ours below "
        "as mean and 95% interval, of accuracy over speakers or official folds, of other metrics over folds, on the "
        f"seeds that all systems have; the best of several systems bold. {extent(runs, systems)} "
        f"{len(runs.grid) - len(runs.missing)} of {len(runs.grid)} runs, profile {runs.grid.profile}."
    )
    return show(frame, name, caption, out, bold)


def _entries(
    axis: str, systems: Mapping, metrics: Mapping[str, str], published: tuple[str, str]
) -> dict[str, dict[str, _Cell]]:
    """Cells by row and column; corpora that stand for none of the paper's are below the row ""."""
    numbers, table, entries = values(*published), " ".join(published), {}
    rows, columns, known = (list(dict.fromkeys(key[place] for key in numbers)) for place in range(3))
    for metric in metrics:
        choose(metric, known, f"metric of {table}")
    if axis == "system":
        for system, place in systems.items():
            row, column = (place, None) if isinstance(place, str) else place or (None, None)
            if row is not None:
                choose(row, rows, f"row of {table}")
            entries[system] = {
                m: _Cell(system, ours, numbers.get((row, column or m, m))) for m, ours in metrics.items()
            }
        return entries
    for column in systems.values():
        choose(column, columns, f"column of {table}")
    for row in [*sorted(rows), ""] if axis == "corpus" else rows:
        printed = [m for m in metrics if not row or any((row, column, m) in numbers for column in columns)]
        cells = {
            column if len(printed) == 1 else f"{column}, {m}": _Cell(
                system, f"recall of {row}" if metrics[m] == "recall" else metrics[m], numbers.get((row, column, m))
            )
            for system, column in systems.items()
            for m in printed
        }
        entries |= {row: cells} if cells else {}
    return entries


def _lines(
    runs: Runs, axis: str, entries: Mapping[str, Mapping[str, _Cell]], published: tuple[str, str], corpus: str
) -> Iterator[_Line]:
    """The paper's rows, and ours below each."""
    shown = statistics.comparable(runs, {cell.system for cells in entries.values() for cell in cells.values()})
    cards, roles = runs.grid.cards, [f"{published[0]} {row}" for row in entries]
    for (row, cells), role in zip(entries.items(), roles, strict=True):
        printed = {column: cell.printed for column, cell in cells.items()}
        if any(value is not None for value in printed.values()):
            where, source = (row, " ".join(published)) if axis == "corpus" else (corpus, "")
            yield _Line(row, where, "published", source, printed)
        keys = list(cards)
        if axis == "corpus":
            keys = [k for k in cards if (cards[k]["role"] == role if row else cards[k]["role"] not in roles)]
        for key in keys:
            records = {cell.system: shown.of(corpus=key, system=cell.system) for cell in cells.values()}
            ours = {column: _value(records[cell.system], cell.metric) for column, cell in cells.items()}
            notes = [evidence(cards[key]), source_note(record for some in records.values() for record in some)]
            source = _coverage(axis, cards[key], records.values())
            yield _Line(row, key, "; ".join(filter(None, notes)), source, ours)
        if axis == "corpus" and row and not keys:
            absent = NOT_AVAILABLE if runs.grid.profile == "full" else "not in this run"
            yield _Line(row, "no recordings", absent, "", dict.fromkeys(cells))


def _value(records: Sequence[dict], metric: str) -> Value:
    """Mean and interval of a metric, or of the recall of a class whatever its capitals; None where no clip is of it."""
    if not records:
        return NOT_YET
    label = metric.removeprefix("recall of ")
    if label == metric:
        return statistics.cell(records, metric)
    label = next((name for name in records[0]["classes"] if name.lower() == label.lower()), label)
    recalls = [record | {"test": {metric: metric_value(record, f"recall of {label}")}} for record in records]
    known = [record for record in recalls if not np.isnan(record["test"][metric])]
    return statistics.cell(known, metric) if known else None


def _text(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def _best(cells: Mapping[str, _Cell], line: Mapping[str, Value]) -> dict[str, bool]:
    """Where a line has the highest value of several systems."""
    numbers = {c: v.mean if isinstance(v, Interval) else v for c, v in line.items() if isinstance(v, Interval | float)}
    rivals = {c: [n for other, n in numbers.items() if cells[other].metric == cells[c].metric] for c in numbers}
    return {c: c in numbers and len(rivals[c]) > 1 and numbers[c] == max(rivals[c]) for c in line}


def _coverage(axis: str, card: Mapping, systems: Iterable[Sequence[dict]]) -> str:
    """Folds and seeds that the systems of a line have, and what an interval is over, or how many runs there are."""
    systems = [records for records in systems if records]
    if not systems:
        return "no run yet" if axis == "corpus" else ""
    folds = [Counter(r["config"]["split"] for r in records) for records in systems]
    seeds = _span(count for counts in folds for count in counts.values())
    covered = f"{_span(map(len, folds))} of {len(card['splits'])} folds, {seeds} seed(s)"
    if axis != "corpus":
        return f"{covered}, {sum(map(len, systems))} runs"
    units = {unit for records in systems for record in records for unit in record["units"]}
    return f"ours: {covered}; interval over {len(units)} {card['interval_over']}s"


def _span(counts: Iterable[int]) -> str:
    least, *_, most = sorted(counts) * 2
    return str(least) if least == most else f"{least}-{most}"


def confusions(runs: Runs, system: str, published: tuple[str, str], name: str, out: Path, corpus: str = "") -> HTML:
    """Recall matrix of a system as published, and ours of all folds and seeds pooled, one row per true class.

    Args:
        runs: of the system.
        system: its name.
        published: paper and table, of shares or counts; its classes are ours whatever their capitals.
        name, out: see ``show``.
        corpus: that the paper's numbers are of.
    """
    numbers, lines = values(*published), []
    labels = list(dict.fromkeys(column for _, column, _ in numbers))
    for true in labels:
        printed = {
            other: numbers[true, other, "confusion"] for other in labels if (true, other, "confusion") in numbers
        }
        scale = sum(printed.values()) if max(printed.values(), default=0) > 1 else 1  # counts become shares
        shares = {f"predicted {other}": f"{value / scale:.3f}" for other, value in printed.items()}
        lines.append({"true": true, "corpus": corpus, "evidence": "published", **shares, "clips": ""})
        for key, card in runs.grid.cards.items():
            records = runs.of(corpus=key, system=system)
            shares, clips = {f"predicted {other}": NOT_YET for other in labels}, ""
            if records:
                place = {label.lower(): i for i, label in enumerate(records[0]["classes"])}
                counts = np.sum([record["confusion"] for record in records], axis=0)
                own = counts[place[true.lower()]] if true.lower() in place else np.zeros(len(place), int)
                known = [other for other in labels if own.sum() and other.lower() in place]
                shares = {f"predicted {other}": f"{own[place[other.lower()]] / own.sum():.3f}" for other in known}
                clips = f"{own.sum()}"
            lines.append({"true": true, "corpus": key, "evidence": evidence(card), **shares, "clips": clips})
    order = ["true", "corpus", "evidence", *(f"predicted {other}" for other in labels), "clips"]
    caption = (
        f"{' '.join(published)}, {system}: share of the test clips of each true class that is predicted as each class. "
        f"Published{f' on {corpus}' if corpus else ''}; ours below, of all folds and seeds. {extent(runs, [system])}"
    )
    return show(pd.DataFrame(lines, columns=order).fillna(""), name, caption, out)
