"""UrbanSound8K: 8,732 excerpts of up to 4 s from ten classes of city sounds, in ten official folds.

Layout: ``audio/fold{F}/{fsID}-{classID}-{occurrence}-{slice}.wav``. Excerpts of one field recording (fsID) never leave
their fold; only the official folds are honest.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from capslib.corpora.layout import clips, expected
from capslib.corpora.splits import by_fold
from capslib.corpora.table import Budget, Source, Task

CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)


def _read(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    table, notes = clips(
        folder, r"(?:.*/)?audio/fold(?P<fold>\d+)/(?P<recording>\d+)-(?P<code>\d)-(?P<occurrence>\d+)-(?P<slice>\d+)"
    )
    table["fold"] = table["fold"].astype(int)
    table["sound"] = table["code"].astype(int).map(dict(enumerate(CLASSES)))
    absent = sorted(set(range(1, 11)) - set(table["fold"]))
    notes += [f"official folds {', '.join(map(str, absent))} are not available"] if absent else []
    return table, notes + expected(len(table), 8_732, "excerpts")


SOURCES = (
    Source(
        name="urbansound8k",
        read=_read,
        folder="urbansound8k",
        tasks={
            "sound": Task(
                label="sound",
                group="recording",
                interval_over="fold",
                splits=lambda table: by_fold(table, "recording", "sound"),
                protocol="the official folds at hand test in turn; a seventh of the other folds' recordings validates",
                role="P0 Urban8K",
                evidence="same corpus",
            )
        },
        sample_rate=16_000,
        citation="J. Salamon, C. Jacoby and J. P. Bello, A Dataset and Taxonomy for Urban Sound Research, ACM MM 2014",
        licence="CC BY-NC 3.0",
        homepage="https://urbansounddataset.weebly.com/urbansound8k.html",
        how_to_get="unpack UrbanSound8K.tar.gz to urbansound8k/ in the data folder, "
        "so that urbansound8k/audio/ holds the folds",
        budgets={"full": Budget(epochs=12, batch_size=16)},
    ),
)
