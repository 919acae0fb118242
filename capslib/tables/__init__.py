"""Tables that a person looks at: published beside ours, with the kind of evidence, the same bytes every time."""

from capslib.tables.comparison import confusions, results
from capslib.tables.style import show, title
from capslib.tables.summaries import (
    describe,
    evidence,
    extent,
    in_points,
    label_sets,
    per_fold,
    pooled,
    provenance,
    roles,
    scores,
    source_note,
    sources,
    split_sizes,
    systems,
    verdict_counts,
)
