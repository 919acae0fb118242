"""Tables of the recordings and of our records: corpora, folds, metrics, costs, paired tests, provenance."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

from capslib import corpora, statistics
from capslib.corpora import Corpus
from capslib.statistics import METRICS, NOT_YET
from capslib.study import Runs
from capslib.tables.style import NOT_AVAILABLE, show, title


def evidence(card: Mapping) -> str:
    """The kind of evidence a corpus gives; "same corpus, incomplete" if part of the paper's recordings is missing."""
    incomplete = card["evidence"] == "same corpus" and card["missing"]
    return f"{card['evidence']}, incomplete" if incomplete else card["evidence"]


def source_note(records: Iterable[dict]) -> str:
    """Which corpora the sources of a transfer were trained on, and what these stand for; "" without a source."""
    notes = []
    for key in dict.fromkeys(r["config"]["source"]["corpus"] for r in records if r["config"].get("source")):
        source, task = corpora.parse(key)
        about = source.tasks[task]
        role = about.role.partition(" ")[2]
        notes.append(f"source {key}" + (f", stand-in for {role}" if about.evidence == "stand-in" else ""))
    return "; ".join(notes)


def roles(papers: Iterable, cards: Mapping[str, dict]) -> pd.DataFrame:
    """Which recordings stand in a run for each corpus of the papers, one row per corpus of the papers.

    The papers are as ``capslib.papers.declared`` gives them, the cards by key of the corpora in use (see
    ``Corpus.card``). Columns are paper, corpus, task, in this run, evidence, how to get it.
    """
    used = {card["role"]: (key, evidence(card)) for key, card in cards.items()}
    rows = []
    for paper in papers:
        for role in paper.corpora:
            key, kind = used.get(f"{paper.key} {role.corpus}", ("", NOT_AVAILABLE))
            row = {"paper": paper.key, "corpus": role.corpus, "task": role.task, "in this run": key, "evidence": kind}
            rows.append(row | {"how to get it": role.how_to_get})
    return pd.DataFrame(rows)


def describe(cards: Mapping[str, dict], absent: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per corpus: evidence, clips, classes, groups, hours, folds, what is missing or left out, fingerprint. The
    cards are of a grid's corpora; ``absent`` says how to get those that are not available."""
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
    rows += [{"corpus": key, "evidence": NOT_AVAILABLE, "remarks": how} for key, how in (absent or {}).items()]
    return pd.DataFrame(rows, dtype=object).fillna("")


def split_sizes(corpus: Corpus) -> pd.DataFrame:
    """Clips and groups of every part of every fold."""
    rows = []
    for split in corpus.splits:
        row = {"corpus": corpus.key, "fold": split.name}
        for part in ("train", "validation", "test"):
            items = corpus.table.loc[list(getattr(split, part))]
            row[part] = f"{len(items)} clips, {items['group'].nunique()} {corpus.about.group}s"
        rows.append(row)
    return pd.DataFrame(rows)


def extent(runs: Runs, systems: Collection[str] | None = None) -> str:
    """Seeds of each corpus that all of these systems have, in one sentence for a caption."""
    seeds, shown = [], statistics.comparable(runs, systems)
    for key in runs.grid.cards:
        count = len({r["config"]["seed"] for r in shown.of(corpus=key) if systems is None or r["system"] in systems})
        seeds.append(f"{key} {f'{count} seeds' if count > 1 else 'one seed' if count else NOT_YET}")
    return f"Ours: {', '.join(seeds) or 'no corpus available'}."


def scores(runs: Runs, metrics: Sequence[str]) -> pd.DataFrame:
    """Metrics of the test part of every system on every corpus: mean and 95% interval, over seeds that all have."""
    rows, shown = [], statistics.comparable(runs)
    for corpus, system in dict.fromkeys((run.config.corpus, run.system) for run in runs.grid.runs):
        records = shown.of(corpus=corpus, system=system)
        cells = {m.replace("_", " "): str(statistics.cell(records, m)) if records else NOT_YET for m in metrics}
        rows.append({"corpus": corpus, "system": title(system), **cells})
    return pd.DataFrame(rows)


def per_fold(runs: Runs, systems: Sequence[str] | None = None, clips: bool = False) -> pd.DataFrame:
    """Accuracy of every fold, mean over the seeds that all systems have; one column per system (by default all).
    ``clips`` shows the test clips of each class in place of the number of seeds."""
    shown = statistics.comparable(runs, systems)
    if not shown.records:
        return pd.DataFrame(columns=["corpus", "fold"])
    frame, index = shown.frame(), ["corpus", "split"]
    accuracy = frame.pivot_table(index=index, columns="system", values="accuracy", aggfunc="mean", sort=False)
    if systems is not None:
        accuracy = accuracy.reindex(columns=systems)
    if not clips:
        accuracy = accuracy.rename(columns=title)
        accuracy.insert(0, "seeds", frame.groupby(index)["seed"].nunique())
        return accuracy.reset_index()
    sizes = {
        (record["config"]["corpus"], record["config"]["split"]): {
            f"{label} clips": sum(row) for label, row in zip(record["classes"], record["confusion"], strict=True)
        }
        for record in reversed(shown.records)
    }
    texts = accuracy.map(lambda value: NOT_YET if pd.isna(value) else f"{value:.3f}")
    counts = pd.DataFrame([sizes[place] for place in texts.index], index=texts.index)
    return pd.concat([counts, texts], axis=1).reset_index(names=["corpus", "fold"])


def pooled(runs: Runs, systems: Sequence[str]) -> pd.DataFrame:
    """WA and UA of the test clips of all folds together, mean over the seeds that all systems of a corpus have. One row
    per corpus and system, below that of always predicting the commonest class."""
    rows, shown = [], statistics.comparable(runs, systems)
    for key in runs.grid.cards:
        counts = {system: _counts_of_seeds(shown.of(corpus=key, system=system)) for system in systems}
        counts = {system: some for system, some in counts.items() if some}
        if counts:
            clips = next(iter(counts.values()))[0].sum(1)  # of each class
            always = np.outer(clips, np.arange(len(clips)) == clips.argmax())
            rows.append(_pooled(key, "always the commonest class", [always]) | {"seeds": ""})
        rows += [_pooled(key, system, some) for system, some in counts.items()]
    return pd.DataFrame(rows or [{"corpus": "", "system": NOT_YET}])


def _counts_of_seeds(records: Sequence[dict]) -> list[np.ndarray]:
    """Confusion matrix of each seed, of all folds."""
    by_seed: dict[int, list] = {}
    for record in records:
        by_seed.setdefault(record["config"]["seed"], []).append(record["confusion"])
    return [np.sum(folds, axis=0) for folds in by_seed.values()]


def _pooled(key: str, system: str, counts: Sequence[np.ndarray]) -> dict:
    """A row from the confusion matrix of each seed: classes x classes, true ones in the rows."""
    recalls = [np.diag(c)[c.sum(1) > 0] / c.sum(1)[c.sum(1) > 0] for c in counts]
    return {
        "corpus": key,
        "system": system,
        "seeds": len(counts),
        "clips of a seed": f"{counts[0].sum()}",
        "WA": f"{np.mean([np.trace(c) / c.sum() for c in counts]):.3f}",
        "UA": f"{np.mean([recall.mean() for recall in recalls]):.3f}",
    }


def systems(runs: Runs) -> pd.DataFrame:
    """Size, cost and accuracies of every system, over the seeds that all systems of a corpus have."""
    frame = statistics.comparable(runs).frame().groupby(["corpus", "system"], sort=False)
    medians, means = ("seconds", "chosen_epoch"), ("train_accuracy", "validation_accuracy")
    statistic = {"parameters": "median", "key": "size"} | dict.fromkeys(medians, "median")
    statistic |= dict.fromkeys((*means, "accuracy", "unweighted_accuracy"), "mean")
    titles = {"key": "runs", "seconds": "seconds a run (median)", "chosen_epoch": "chosen epoch (median)"}
    titles |= {"accuracy": "test accuracy", "unweighted_accuracy": "test unweighted accuracy"}
    table = frame.agg(statistic).astype({"parameters": int}).rename(columns=titles).reset_index()
    return table.rename(columns=lambda column: column.replace("_", " "))


def sources(runs: Runs) -> pd.DataFrame:
    """What the source of each system can do on the test part of its own corpus, over the seeds."""
    distinct: dict[str, dict[str, dict]] = {}
    for record in runs.records:
        if "source" in record:
            distinct.setdefault(record["system"], {})[json.dumps(record["source"], sort_keys=True)] = record["source"]
    rows = []
    for system, several in distinct.items():
        config, tests = next(iter(several.values()))["config"], [source["test"] for source in several.values()]
        row = {"system": system, "source": config["model"], "corpus": config["corpus"], "fold": config["split"]}
        row |= {"epochs": config["epochs"], "seeds": len(tests)}
        means = pd.DataFrame(tests)[["accuracy", "unweighted_accuracy"]].mean()
        rows.append(row | {f"its {metric.replace('_', ' ')}": value for metric, value in means.items()})
    return pd.DataFrame(rows)


def label_sets(runs: Runs) -> pd.DataFrame:
    """Clips by true and predicted set of labels, summed over the folds and seeds of each corpus and system."""
    rows = [
        (record["config"]["corpus"], record["system"], true or "-", f"predicted {predicted or '-'}", count)
        for record in runs.records
        for true, counts in zip(record["label_sets"], record["confusion"], strict=True)
        for predicted, count in zip(record["label_sets"], counts, strict=True)
        if sum(counts)
    ]
    frame = pd.DataFrame(rows, columns=["corpus", "system", "true", "predicted", "clips"])
    index = ["corpus", "system", "true"]
    table = frame.pivot_table(index=index, columns="predicted", values="clips", aggfunc="sum", fill_value=0)
    return table.rename(index=title, level="system").reset_index()


def verdict_counts(tests: pd.DataFrame) -> str:
    """How many paired tests are decided, and how far their intervals reach, in words, one line per corpus."""
    lines = []
    for key, rows in tests.groupby("corpus", sort=False):
        tested = rows[rows["p"].notna()]
        if tested.empty:
            lines.append(f"{key}: no comparison has two pairs of runs.")
            continue
        counts, reach = tested["verdict"].value_counts(), 50 * (tested["high"] - tested["low"]).median()
        decided = f"{counts.get('higher', 0)} of {len(tested)} comparisons higher, {counts.get('lower', 0)} lower"
        lines.append(f"{key}: {decided}; the median interval reaches {reach:.1f} points to each side.")
    return "\n".join(lines)


def in_points(tests: pd.DataFrame, metrics: Mapping[str, str] = METRICS) -> pd.DataFrame:
    """Paired tests with their metrics by the papers' names, and differences in points."""
    named = tests.replace({"metric": {ours: name for name, ours in metrics.items()}})
    for column in ("difference", "low", "high"):
        named[column] = [f"{100 * value:+.2f}" if pd.notna(value) else "" for value in named[column]]
    return named.rename(columns={"difference": "ours in points"})


def provenance(runs: Runs, name: str, out: Path, measured: Mapping[str, str] | None = None) -> HTML:
    """Where the numbers of a page come from: records, data, code, machines, seconds; what was not run and why.

    Args:
        runs: whose records the page shows; of an empty grid, for a page that shows none.
        name, out: see ``show``.
        measured: further facts, of a page that shows measurements.
    """
    records, origins = runs.records, [record["provenance"] for record in runs.records]

    def each(facts: Iterable[str]) -> str:
        return ", ".join(sorted(set(facts)))

    facts = {
        "profile": runs.grid.profile,
        f"corpora {NOT_AVAILABLE}": "; ".join(f"{key}: {how}" for key, how in runs.grid.absent.items()) or "none",
        "data fingerprints": ", ".join(f"{key} {card['fingerprint']}" for key, card in runs.grid.cards.items()),
    }
    of_runs = {
        "records": f"{len(records)} of {len(runs.grid)} runs",
        "not run yet": str(len(runs.missing)),
        "of older code or other data": str(len(runs.older)),
        "migrated from older code": str(sum("carried" in origin for origin in origins)),
        "code versions": each(r["code"] for r in records),
        "machines": each(f"{origin['machine']}, {origin['device']}" for origin in origins),
        "torch": each(origin["torch"] for origin in origins),
        "dates": each(origin["date"] for origin in origins),
        "training seconds in all": f"{sum(origin['seconds'] for origin in origins):.0f}",
        "unusable record files": "; ".join(runs.notes) or "none",
    }
    facts |= (of_runs if len(runs.grid) else {}) | dict(measured or {})
    return show(pd.DataFrame(facts.items(), columns=["", "provenance"]), name, "Where these numbers come from.", out)
