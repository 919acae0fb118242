"""Tables that a person looks at: published beside ours, with the kind of evidence, the same bytes every time."""

from capslib.tables.comparison import confusions, results
from capslib.tables.data import describe, evidence, provenance, roles, source_note, split_sizes
from capslib.tables.style import NOT_AVAILABLE, show, title, titled
from capslib.tables.summaries import (
    extent,
    in_points,
    label_sets,
    per_fold,
    pooled,
    scores,
    sources,
    systems,
    verdict_counts,
)

__all__ = [
    "NOT_AVAILABLE",
    "confusions",
    "describe",
    "evidence",
    "extent",
    "in_points",
    "label_sets",
    "per_fold",
    "pooled",
    "provenance",
    "results",
    "roles",
    "scores",
    "show",
    "source_note",
    "sources",
    "split_sizes",
    "systems",
    "title",
    "titled",
    "verdict_counts",
]
