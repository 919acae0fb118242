"""Berlin Database of Emotional Speech (EmoDB): ten actors, ten German sentences, 7 emotions, 16 kHz.

Layout: ``wav/SSTTTEv.wav`` (speaker, text, first letter of the German emotion, version).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from capslib.corpora.layout import clips, expected
from capslib.corpora.splits import by_fold, pairs
from capslib.corpora.table import Budget, Source, Task

EMOTIONS = {"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}
FOUR = ("angry", "happy", "neutral", "sad")
# One man and one woman in each fold.
FOLDS = {"03": 1, "08": 1, "10": 2, "09": 2, "11": 3, "13": 3, "12": 4, "14": 4, "15": 5, "16": 5}
MEN = ("03", "10", "11", "12", "15")


def _read(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    table, notes = clips(
        folder, r"(?:.*/)?wav/(?P<speaker>03|08|09|1[0-6])(?P<text>[a-z]\d\d)(?P<code>[WLEAFTN])(?P<version>[a-z])"
    )
    table["emotion"] = table["code"].map(EMOTIONS)
    table["fold"] = table["speaker"].map(FOLDS)
    table["gender"] = table["speaker"].isin(MEN).map({True: "male", False: "female"})
    absent = sorted(set(EMOTIONS.values()) - set(table["emotion"]))
    notes += [f"no clip of {', '.join(absent)}"] if absent else []
    return table, notes + expected(len(table), 535, "clips")


def _as_p2(tester: str, other: str, remark: str) -> Task:
    return Task(
        label="emotion",
        group="speaker",
        interval_over="speaker",
        splits=lambda table: pairs(table, "fold", "gender", tester),
        protocol="5 pairs of a man and a woman, one fold per pair: "
        f"its {tester} speaker tests, its {other} one validates ({remark}), the other pairs train, "
        "as P1 and P2 do with IEMOCAP's sessions",
        role="P1 IEMOCAP",
        evidence="stand-in",
        classes=FOUR,
    )


def _task(role: str, classes: tuple[str, ...] | None) -> Task:
    return Task(
        label="emotion",
        group="speaker",
        interval_over="speaker",
        splits=lambda table: by_fold(table, "speaker", "emotion"),
        protocol="5 folds of 2 speakers, a man and a woman; 2 of the other 8 validate",
        role=role,
        evidence="stand-in",
        classes=classes,
    )


SOURCES = (
    Source(
        name="emodb",
        read=_read,
        folder="emodb",
        tasks={
            "emotion4": _task("P0 IEMOCAP", FOUR),
            "emotion7": _task("", None),
            "emotion4_p2": _as_p2(
                "male", "female", "the papers do not say which; emotion4_p2_swapped has it the other way round"
            ),
            "emotion4_p2_swapped": _as_p2("female", "male", "the roles of emotion4_p2 swapped"),
        },
        sample_rate=16_000,
        citation="F. Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
        licence="free for research, see its homepage",
        homepage="http://emodb.bilderbar.info",
        how_to_get="unpack the owners' download.zip to emodb/ in the data folder, so that emodb/wav/ holds the clips",
        budgets={"full": Budget(epochs=20, seeds=3, batch_size=16)},
    ),
)
