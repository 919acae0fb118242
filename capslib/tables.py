"""Tables that a person looks at: published beside ours, with the kind of evidence, the same bytes every time.

Each table is also written as CSV, so that what a page shows can be read by a program.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from capslib import corpora, paths, statistics
from capslib.corpora import Corpus
from capslib.errors import choose
from capslib.study import Runs

_STYLE = [
    {"selector": "caption", "props": "caption-side: top; text-align: left; padding: 0.4em 0; max-width: 60em"},
    {"selector": "th, td", "props": "text-align: left; padding: 0.25em 0.7em; vertical-align: top"},
    {"selector": "tr.ours, td", "props": "font-variant-numeric: tabular-nums"},
]
COLUMN_TITLES = {"cnn": "CNN", "lstm": "LSTM", "att": "ATT", "caps": "CAPS"}


def show(frame: pd.DataFrame, name: str, caption: str, out: Path, bold: pd.DataFrame | None = None) -> HTML:
    """A table as HTML, and as ``tables/<name>.csv`` below ``out``.

    Args:
        frame: what to show; numbers as they should be printed.
        name: of the file, and of the table in the page.
        caption: one or two sentences: what, where from, how many.
        out: folder of the report.
        bold: same shape, True where a cell is bold.
    """
    if frame.empty:
        frame, bold = (
            pd.DataFrame({column: ["" if i else "not run yet"] for i, column in enumerate(frame.columns)}),
            None,
        )
    paths.write_text(
        out / "tables" / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    )
    styler = frame.style.set_uuid(name).set_caption(html.escape(caption)).hide(axis="index")
    styler = styler.set_table_styles(_STYLE).format(precision=3, na_rep="")
    if bold is not None:
        styler = styler.apply(lambda _: bold.map({True: "font-weight: bold", False: ""}.get), axis=None)
    return HTML(styler.to_html())


@cache
def published(paper: str, table: str) -> pd.DataFrame:
    """Values of a paper's table, typed from it: rows and columns as in the paper, floats; percents as fractions.

    Args:
        paper: "P0" to "P4".
        table: "Table 1".
    """
    everything = pd.read_csv(paths.root() / "data" / "published.csv", dtype=str, keep_default_na=False)
    ours = everything[(everything["paper"] == paper) & (everything["table"] == table)]
    value = ours["value"].astype(float).where(ours["unit"] != "percent", ours["value"].astype(float) / 100)
    return ours.assign(value=value).pivot(index="row", columns="column", values="value")


def roles(papers: Iterable, cards: Mapping[str, dict]) -> pd.DataFrame:
    """Which recordings stand in a run for each corpus of the papers.

    Args:
        papers: as ``capslib.papers.declared`` gives them.
        cards: of the corpora in use, by key (see ``Corpus.card``).
    Returns:
        Columns paper, corpus, task, in this run, evidence, how to get it; one row per corpus of the papers.
    """
    used = {card["role"]: (key, evidence(card)) for key, card in cards.items()}
    rows = []
    for paper in papers:
        for role in paper.corpora:
            key, kind = used.get(f"{paper.key} {role.corpus}", ("", "not here"))
            row = {"paper": paper.key, "corpus": role.corpus, "task": role.task, "in this run": key, "evidence": kind}
            rows.append(row | {"how to get it": role.how_to_get})
    return pd.DataFrame(rows)


def evidence(card: Mapping) -> str:
    """The kind of evidence a corpus gives; "same corpus, incomplete" if part of the paper's recordings is not here."""
    incomplete = card["evidence"] == "same corpus" and card["missing"]
    return f"{card['evidence']}, incomplete" if incomplete else card["evidence"]


def heard(records: Sequence[dict]) -> str:
    """Which corpora the sources of a transfer were trained on, and what these stand for; "" without a source."""
    found = []
    for key in dict.fromkeys(r["config"]["source"]["corpus"] for r in records if r["config"].get("source")):
        source, task = corpora.parse(key)
        about = source.tasks[task]
        role = about.role.partition(" ")[2]
        found.append(f"source {key}" + (f", stand-in for {role}" if about.evidence == "stand-in" else ""))
    return "; ".join(found)


def describe(cards: Mapping[str, dict], absent: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row a corpus: evidence, clips, classes, groups, hours, folds, what is missing or left out, fingerprint.

    Args:
        cards: of the corpora of a grid.
        absent: how to get those that are not here.
    """
    rows = [
        {
            "corpus": key,
            "evidence": evidence(card),
            "stands for": card["role"],
            "clips": card["clips"],
            "classes": len(card["classes"]),
            "groups": f"{card['groups']} {card['group']}s",
            "hours": f"{card['hours']:.2f}",
            "folds": len(card["splits"]),
            "remarks": "; ".join(card["missing"]),
            "left out": card["left_out"],
            "licence": card["licence"],
            "data fingerprint": card["fingerprint"],
        }
        for key, card in cards.items()
    ]
    rows += [{"corpus": key, "evidence": "not here", "remarks": how} for key, how in (absent or {}).items()]
    return pd.DataFrame(rows, dtype=object).fillna("")


def split_sizes(corpus: Corpus) -> pd.DataFrame:
    """Clips and groups of every part of every fold."""
    rows = []
    for split in corpus.splits:
        parts = {part: corpus.table.loc[list(getattr(split, part))] for part in ("train", "validation", "test")}
        rows.append(
            {"corpus": corpus.key, "fold": split.name}
            | {
                part: f"{len(rows_)} clips, {rows_['group'].nunique()} {corpus.about.group}s"
                for part, rows_ in parts.items()
            }
        )
    return pd.DataFrame(rows)


def compare(
    runs: Runs,
    columns: Sequence[str] | Mapping[str, str],
    paper: str,
    table: str,
    name: str,
    out: Path,
    metric: str = "accuracy",
) -> HTML:
    """A paper's table with our cells below each of its rows: mean and 95% interval over speakers or folds.

    Corpora that stand in for one of the paper's are below it; the others come last. The best of each row is bold.

    Args:
        runs: of the systems in ``columns``.
        columns: names of systems, whose titles in the paper are in ``COLUMN_TITLES``; or each with the paper's title.
        paper, table: "P0", "Table 1".
        name, out: see ``show``.
        metric: of the test part.
    Raises:
        CapslibError: if the paper's table has no such title.
    """
    values = published(paper, table)
    named = (
        columns if isinstance(columns, Mapping) else {column: COLUMN_TITLES.get(column, column) for column in columns}
    )
    titles = [choose(title, list(values.columns), f"column of {paper} {table}") for title in named.values()]
    order: list[tuple[str, str | None]] = []
    keys, shown = list(runs.grid.cards), statistics.comparable(runs, columns)
    for row in values.index:
        order.append((row, None))
        mine = [key for key in keys if runs.grid.cards[key]["role"] == f"{paper} {row}"]
        order.extend((row, key) for key in (mine or [""]))
    placed = {key for _, key in order if key}
    order.extend(("", key) for key in keys if key not in placed)
    rows, bold = [], []
    for row, key in order:
        if key is None:
            numbers = [values.loc[row].get(title) for title in titles]
            cells = [f"{number:.3f}" if pd.notna(number) else "" for number in numbers]
            head = {"corpus": row, "evidence": "published", "from": f"{paper} {table}"}
        elif key == "":
            numbers, cells = [None] * len(columns), [""] * len(columns)
            head = {
                "corpus": "no recordings",
                "evidence": "not here" if runs.grid.profile == "full" else "not in this run",
                "from": "",
            }
        else:
            card = runs.grid.cards[key]
            found = {column: shown.of(corpus=key, system=column) for column in columns}
            made = [statistics.cell(records, metric) if records else None for records in found.values()]
            numbers = [value.mean if value else None for value in made]
            cells = [str(value) if value else "not run yet" for value in made]
            told = [evidence(card), heard([record for records in found.values() for record in records])]
            head = {"corpus": key, "evidence": "; ".join(filter(None, told)), "from": _provenance(card, found)}
        best = max((number for number in numbers if number is not None and pd.notna(number)), default=None)
        rows.append(head | dict(zip(titles, cells, strict=True)))
        bold.append([False] * 3 + [best is not None and number == best for number in numbers])
    frame = pd.DataFrame(rows)
    caption = (
        f"{paper} {table}, columns {', '.join(titles)}: {metric.replace('_', ' ')} as published, and ours below it as mean and 95% interval over "
        f"the units named, on the seeds that all columns have. {len(runs.records)} of {len(runs.grid)} runs, profile {runs.grid.profile}; best of a row bold."
    )
    return show(frame, name, caption, out, pd.DataFrame(bold, columns=frame.columns))


def _provenance(card: dict, found: Mapping[str, Sequence[dict]]) -> str:
    seeds = [
        sum(r["config"]["split"] == split for r in records)
        for records in found.values()
        for split in {r["config"]["split"] for r in records}
    ]
    folds = [len({r["config"]["split"] for r in records}) for records in found.values() if records]
    if not seeds:
        return "no run yet"
    units = {unit for records in found.values() for record in records for unit in record["units"]}
    what = card["interval_over"]

    def span(counts: list[int]) -> str:
        return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"

    return (
        f"ours: {span(folds)} of {len(card['splits'])} folds, {span(seeds)} seed(s); interval over {len(units)} {what}s"
    )


def per_fold(runs: Runs) -> pd.DataFrame:
    """Accuracy of every fold, mean over the seeds that all systems have, one column a system."""
    frame = statistics.comparable(runs).frame()
    grouped = frame.pivot_table(
        index=["corpus", "split"], columns="system", values="accuracy", aggfunc="mean", sort=False
    ).reset_index()
    grouped.insert(2, "seeds", frame.groupby(["corpus", "split"], sort=False)["seed"].nunique().to_numpy())
    grouped.columns.name = None
    return grouped.rename(columns=COLUMN_TITLES)


def systems(runs: Runs) -> pd.DataFrame:
    """Size and cost of every system: parameters, median seconds a run, median chosen epoch, train and test accuracy, over the
    seeds that all systems of a corpus have."""
    return (
        statistics.comparable(runs)
        .frame()
        .groupby(["corpus", "system"], sort=False)
        .agg(
            parameters=("parameters", "median"),
            runs=("key", "size"),
            seconds=("seconds", "median"),
            chosen_epoch=("chosen_epoch", "median"),
            train_accuracy=("train_accuracy", "mean"),
            validation_accuracy=("validation_accuracy", "mean"),
            test_accuracy=("accuracy", "mean"),
            test_unweighted_accuracy=("unweighted_accuracy", "mean"),
        )
        .reset_index()
        .astype({"parameters": int})
        .rename(columns={"seconds": "seconds a run (median)", "chosen_epoch": "chosen epoch (median)"})
        .rename(columns=lambda column: column.replace("_", " "))
    )


def metrics(runs: Runs, names: Sequence[str]) -> pd.DataFrame:
    """Metrics of the test part of every system on every corpus, as mean and 95% interval, over the seeds that all have."""
    rows, shown = [], statistics.comparable(runs)
    for corpus, system in dict.fromkeys((run.config.corpus, run.system) for run in runs.grid.runs):
        records = shown.of(corpus=corpus, system=system)
        cells = {n.replace("_", " "): str(statistics.cell(records, n)) if records else "not run yet" for n in names}
        rows.append({"corpus": corpus, "system": COLUMN_TITLES.get(system, system)} | cells)
    return pd.DataFrame(rows)


def sources(runs: Runs) -> pd.DataFrame:
    """What the source of each system can do on the test part of its own corpus, over the seeds."""
    found: dict[str, dict[str, dict]] = {}
    for record in runs.records:
        if "source" in record:
            found.setdefault(record["system"], {})[json.dumps(record["source"], sort_keys=True)] = record["source"]
    rows = []
    for system, several in found.items():
        config, tests = next(iter(several.values()))["config"], [one["test"] for one in several.values()]
        row = {"system": system, "source": config["model"], "corpus": config["corpus"], "fold": config["split"]}
        row |= {"epochs": config["epochs"], "seeds": len(tests)}
        for name in ("accuracy", "unweighted_accuracy"):
            row[f"its {name.replace('_', ' ')}"] = sum(test[name] for test in tests) / len(tests)
        rows.append(row)
    return pd.DataFrame(rows)


def label_sets(runs: Runs) -> pd.DataFrame:
    """Clips by true and told set of labels, summed over the folds and seeds of each corpus and system."""
    rows: dict[tuple[str, str, str], dict[str, int]] = {}
    for record in runs.records:
        names = [name or "-" for name in record["label_sets"]]
        for name, counts in zip(names, record["confusion"], strict=True):
            if sum(counts):
                place = rows.setdefault((record["config"]["corpus"], record["system"], name), {})
                for told, count in zip(names, counts, strict=True):
                    place[told] = place.get(told, 0) + count
    told = sorted({name for row in rows.values() for name in row})
    return pd.DataFrame(
        [
            {"corpus": corpus, "system": COLUMN_TITLES.get(system, system), "true": name}
            | {f"told {other}": row.get(other, 0) for other in told}
            for (corpus, system, name), row in sorted(rows.items())
        ]
    )


def of_looks(
    found: Sequence[Mapping], columns: Mapping[str, tuple[Callable[[Mapping], float], tuple[float, float]]]
) -> pd.DataFrame:
    """Numbers of looks, one row a corpus and system: mean and 95% interval over the folds.

    Args:
        found: from ``insight.looks``.
        columns: by title, a number of a look (None: it has none), and between what it lies.
    """
    rows = []
    for corpus, system in dict.fromkeys((look["corpus"], look["system"]) for look in found):
        here = [look for look in found if (look["system"], look["corpus"]) == (system, corpus)]
        head = {"corpus": corpus, "system": system, "networks": len(here)}
        cells = {title: [look for look in here if value(look) is not None] for title, (value, _) in columns.items()}
        rows.append(
            head | {t: str(statistics.over_folds(some, *columns[t])) if some else "" for t, some in cells.items()}
        )
    return pd.DataFrame(rows, columns=["corpus", "system", "networks", *columns])


def perturbed(found: Sequence[Mapping]) -> pd.DataFrame:
    """What a perturbation does to a network's vectors, one row a system; ``found`` from ``insight.components``."""
    columns = {
        "two components, all": (lambda look: sum(look["pooled"][:2]), (0.0, 1.0)),
        "two components, within a clip": (lambda look: sum(look["within"][:2]), (0.0, 1.0)),
        "variance between levels": (lambda look: look["level_share"], (0.0, 1.0)),
        "level read back (r)": (lambda look: look["probe"], (-1.0, 1.0)),
        "more or less (chance 0.5)": (lambda look: look["side"], (0.0, 1.0)),
    }
    frame, sizes = of_looks(found, columns), {look["system"]: look["features"] for look in found}
    frame.insert(2, "numbers", frame["system"].map(sizes))
    return frame


def provenance(runs: Runs, name: str, out: Path, measured: Mapping[str, str] | None = None) -> HTML:
    """Where the numbers of a page come from: records, data, code, machines, seconds; what was not run and why.

    Args:
        runs: whose records the page shows; of an empty grid, for a page that shows none.
        name, out: see ``show``.
        measured: further facts, of a page that shows measurements.
    """
    records = runs.records

    def each(values: Sequence[str]) -> str:
        return ", ".join(sorted(set(values)))

    facts = {
        "profile": runs.grid.profile,
        "corpora not here": "; ".join(f"{key}: {how}" for key, how in runs.grid.absent.items()) or "none",
        "data fingerprints": ", ".join(f"{key} {card['fingerprint']}" for key, card in runs.grid.cards.items()),
    }
    of_runs = {
        "records": f"{len(records)} of {len(runs.grid)} runs",
        "not run yet": str(len(runs.missing)),
        "made by older code or other data": str(len(runs.older)),
        "carried over from older code": str(sum("carried" in r["provenance"] for r in records)),
        "code versions": each([r["code"] for r in records]),
        "machines": each([f"{r['provenance']['machine']}, {r['provenance']['device']}" for r in records]),
        "torch": each([r["provenance"]["torch"] for r in records]),
        "dates": each([r["provenance"]["date"] for r in records]),
        "training seconds in all": f"{sum(r['provenance']['seconds'] for r in records):.0f}",
        "unusable record files": "; ".join(runs.notes) or "none",
    }
    facts |= of_runs if len(runs.grid) else {}
    facts |= measured or {}
    return show(pd.DataFrame(facts.items(), columns=["", "provenance"]), name, "Where these numbers come from.", out)
