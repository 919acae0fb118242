"""Free Spoken Digit Dataset: ten English digits, 50 recordings of each by every speaker, 8 kHz.

Layout: ``recordings/{digit}_{speaker}_{index}.wav``. P0 used the release of 2018 with three speakers, of whom "one
speaker is used only for testing"; which one is not said, so all three are rotated. Homepage:
https://github.com/Jakobovski/free-spoken-digit-dataset.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from capslib import paths
from capslib.corpora.layout import Listing, clips, expected
from capslib.corpora.splits import Split, by_fold, leave_one_group_out
from capslib.corpora.table import Archive, Budget, Source, Task

SPEAKERS_2018 = ("jackson", "nicolas", "theo")
SPEAKERS_2020 = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_ARCHIVE = Archive(
    file="free-spoken-digit-dataset-1.0.10.tar.gz",
    url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz",
    site="GitHub",
    listing=paths.root() / "data" / "checksums" / "fsdd.csv",
    top="free-spoken-digit-dataset-1.0.10",
)


def _read(folder: Path, speakers: tuple[str, ...]) -> Listing:
    table, notes = clips(folder, r"(?:.*/)?recordings/(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)")
    table = table[table["speaker"].isin(speakers)]
    return table, notes + expected(len(table), 500 * len(speakers), "recordings")


def _rotate_speakers(table: pd.DataFrame, group: str, _: str) -> list[Split]:
    """Every tenth recording of the two training speakers validates: no third speaker is left for it."""
    return leave_one_group_out(table, group, validation=table["index"].astype(int) % 10 == 0)


def _source(name: str, speakers: tuple[str, ...], budget: Budget, **task: object) -> Source:
    return Source(
        name=name,
        read=partial(_read, speakers=speakers),
        folder="fsdd",
        tasks={"digit": Task(label="digit", group="speaker", **task)},
        sample_rate=8_000,
        citation="Z. Jackson et al., Free Spoken Digit Dataset, doi:10.5281/zenodo.1342401",
        licence="CC BY-SA 4.0",
        how_to_get="run `make data`, or clone its repository to fsdd/ in the data folder",
        archive=_ARCHIVE,
        budgets={"full": budget},
    )


SOURCES = (
    _source(
        "fsdd",
        SPEAKERS_2018,
        Budget(epochs=30, seeds=5),
        protocol="one speaker tests, each in turn; every tenth clip of the two training speakers validates",
        splits=_rotate_speakers,
        role="P0 FSDD",
        evidence="same corpus",
    ),
    _source(
        "fsdd6",
        SPEAKERS_2020,
        Budget(epochs=10),
        protocol="one speaker of six tests, each in turn; one of the other five validates",
        splits=partial(by_fold, fold="speaker"),
    ),
)
