"""Which recordings and records stand behind the numbers of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from capslib import corpora
from capslib.corpora import Corpus
from capslib.study import Runs
from capslib.tables.style import NOT_AVAILABLE, show


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
            key, kind = used.get(f"{paper.key} {role.corpus}", ("", NOT_AVAILABLE))
            row = {"paper": paper.key, "corpus": role.corpus, "task": role.task, "in this run": key, "evidence": kind}
            rows.append(row | {"how to get it": role.how_to_get})
    return pd.DataFrame(rows)


def describe(cards: Mapping[str, dict], absent: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per corpus: evidence, clips, classes, groups, hours, folds, what is missing or left out, fingerprint.

    Args:
        cards: of the corpora of a grid.
        absent: how to get those that are not available.
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


def provenance(runs: Runs, name: str, out: Path, measured: Mapping[str, str] | None = None) -> HTML:
    """Where the numbers of a page come from: records, data, code, machines, seconds; what was not run and why.

    Args:
        runs: whose records the page shows; of an empty grid, for a page that shows none.
        name, out: see ``show``.
        measured: further facts, of a page that shows measurements.
    """
    records = runs.records

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
        "migrated from older code": str(sum("carried" in r["provenance"] for r in records)),
        "code versions": each(r["code"] for r in records),
        "machines": each(f"{r['provenance']['machine']}, {r['provenance']['device']}" for r in records),
        "torch": each(r["provenance"]["torch"] for r in records),
        "dates": each(r["provenance"]["date"] for r in records),
        "training seconds in all": f"{sum(r['provenance']['seconds'] for r in records):.0f}",
        "unusable record files": "; ".join(runs.notes) or "none",
    }
    facts |= (of_runs if len(runs.grid) else {}) | dict(measured or {})
    return show(pd.DataFrame(facts.items(), columns=["", "provenance"]), name, "Where these numbers come from.", out)
