"""Amharic Speech Emotion Dataset: 65 speakers (25 women, 40 men), 5 emotions, 7 sentences.

Layout: ``NNEmotion/xN-sentence-repetition-gender-speaker.wav`` (gender 01 female, 02 male). Five speakers carry a few
wrong gender codes; each speaker's majority decides.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from capslib.corpora.layout import clips, expected
from capslib.corpora.splits import by_fold, grouped_folds
from capslib.corpora.table import Budget, Source, Task

EMOTIONS = {"1": "neutral", "2": "fearful", "3": "happy", "4": "sad", "5": "angry"}


def _read(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    table, notes = clips(
        folder,
        r"(?:.*/)?0\d[A-Za-z]+/[a-zA-Z](?P<code>[1-5])-(?P<sentence>\d\d)-(?P<repetition>\d\d)"
        r"-(?P<gender_code>\d\d)-(?P<speaker>\d\d)",
    )
    table["emotion"] = table["code"].map(EMOTIONS)
    majority = table.groupby("speaker")["gender_code"].agg(lambda codes: codes.mode().iloc[0])
    table["gender"] = table["speaker"].map(majority).map({"01": "female", "02": "male"})
    corrected = int((table["gender_code"] != table["speaker"].map(majority)).sum())
    if corrected:
        notes.append(f"{corrected} gender code(s) contradict their speaker's other clips: the majority is taken")
    return table, notes + expected(len(table), 2_474, "clips")


def _by_speaker(label: str, role: str) -> Task:
    return Task(
        label=label,
        group="speaker",
        interval_over="speaker",
        splits=lambda table: grouped_folds(table, "speaker", label),
        protocol="5 folds by speaker; about a seventh of the other speakers validates",
        role=role,
        evidence="stand-in",
    )


SOURCES = (
    Source(
        name="ased",
        read=_read,
        folder="ased",
        tasks={
            "gender": _by_speaker("gender", "P0 VCTK"),
            "emotion": _by_speaker("emotion", ""),
            "speaker": Task(
                label="speaker",
                group="sentence",
                interval_over="sentence",
                splits=lambda table: by_fold(table, "sentence", "speaker", fold="sentence"),
                protocol="one sentence tests, each in turn, and another validates: "
                "no speaker is recognized by the words",
                role="P3 CHAINS",
                evidence="stand-in",
            ),
        },
        sample_rate=16_000,
        citation="E. A. Retta et al., A New Amharic Speech Emotion Dataset and Classification Benchmark, 2022",
        licence="see its homepage",
        homepage="https://github.com/Ethio2021/ASED_V1",
        how_to_get="clone its repository and put the five emotion folders into ased/ in the data folder",
        budgets={"full": Budget(epochs=8, batch_size=16)},
    ),
)
