"""MUSAN: 109 hours of music, speech and noise, 2,016 files from seconds to minutes long, 16 kHz.

Layout: ``{music,speech,noise}/{origin}/{kind}-{origin}-NNNN.wav``. No paper classifies it alone: P0 mixes its speech
with its noise. A file is a recording of its own, but one reader or artist may have given several: see the owners'
ANNOTATIONS. Homepage: https://www.openslr.org/17.
"""

from pathlib import Path

import pandas as pd

from capslib.corpora.layout import Listing, absent, clips, expected
from capslib.corpora.splits import Split, grouped_folds
from capslib.corpora.table import Source, Task

KINDS = ("music", "noise", "speech")
_PROTOCOL = (
    "5 folds by file, each up to minutes long (one reader or artist may be on both sides); a seventh of the other "
    "files validates"
)


def _read(folder: Path) -> Listing:
    table, notes = clips(
        folder, rf"(?:.*/)?(?P<kind>{'|'.join(KINDS)})/(?P<origin>[^/]+)/(?P<recording>(?P=kind)-[^/]+-\d+)"
    )
    notes += absent(KINDS, table["kind"], "no file of {}")
    return table, notes + expected(len(table), 2_016, "files")


def _folds(table: pd.DataFrame, group: str, label: str) -> list[Split]:
    """A recording that is there under two names stays together, whatever its names."""
    once = table.groupby("sha256")[group].transform("first")
    return grouped_folds(table.assign(**{group: once}), group, label)


SOURCES = (
    Source(
        name="musan",
        read=_read,
        tasks={"kind": Task("kind", "recording", _PROTOCOL, _folds, interval_over="fold", alone=False)},
        citation="D. Snyder, G. Chen and D. Povey, MUSAN: A Music, Speech, and Noise Corpus, arXiv:1510.08484, 2015",
        licence="public domain or Creative Commons, file by file: see its LICENSE files",
        how_to_get="unpack musan.tar.gz from openslr.org/17 to musan/ in the data folder, "
        "so that music/, speech/ and noise/ are there",
    ),
)
