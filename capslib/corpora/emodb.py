"""Berlin Database of Emotional Speech (EmoDB): ten actors, ten German sentences, 7 emotions, 16 kHz.

Layout: ``wav/SSTTTEv.wav`` (speaker, text, first letter of the German emotion, version).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from capslib.corpora.layout import clips, expected
from capslib.corpora.splits import Split, by_fold
from capslib.corpora.table import Source, Task
from capslib.errors import CapslibError

EMOTIONS = {"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}
FOUR = ("angry", "happy", "neutral", "sad")
# One man and one woman a fold.
FOLDS = {"03": 1, "08": 1, "10": 2, "09": 2, "11": 3, "13": 3, "12": 4, "14": 4, "15": 5, "16": 5}
MEN = ("03", "10", "11", "12", "15")


def _read(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    table, notes = clips(
        folder, r"(?:.*/)?wav/(?P<speaker>03|08|09|1[0-6])(?P<text>[a-z]\d\d)(?P<code>[WLEAFTN])(?P<version>[a-z])"
    )
    table["emotion"] = table["code"].map(EMOTIONS)
    table["gender"] = table["speaker"].isin(MEN).map({True: "male", False: "female"})
    absent = sorted(set(EMOTIONS.values()) - set(table["emotion"]))
    notes += [f"no clip of {', '.join(absent)}"] if absent else []
    return table, notes + expected(len(table), 535, "clips")


def _folds(table: pd.DataFrame) -> list[Split]:
    return by_fold(table.assign(fold=table["speaker"].map(FOLDS)), "speaker", "emotion")


def _pairs(tester: str) -> Callable[[pd.DataFrame], list[Split]]:
    """One fold a pair with both speakers: the one of gender ``tester`` tests, the other validates, the rest train."""

    def splits(table: pd.DataFrame) -> list[Split]:
        pair = table["speaker"].map(FOLDS)
        genders = table.groupby(pair)["gender"].nunique()
        made = []
        for number in sorted(genders.index[genders == 2]):
            inside, tests = pair == number, table["gender"] == tester
            parts = (~inside, inside & ~tests, inside & tests)
            made.append(Split(f"fold{number}", *(tuple(table.index[part]) for part in parts)))
        if not made:
            raise CapslibError(
                "no pair has clips of both its speakers, and one has to validate while the other tests: add recordings"
            )
        return made

    return splits


def _as_p2(tester: str, other: str, remark: str) -> Task:
    return Task(
        label="emotion",
        group="speaker",
        interval_over="speaker",
        splits=_pairs(tester),
        protocol=f"5 pairs of a man and a woman, one fold a pair: its {tester} speaker tests, its {other} one validates "
        f"({remark}), the other pairs train, as P1 and P2 do with IEMOCAP's sessions",
        role="P1 IEMOCAP",
        evidence="stand-in",
        classes=FOUR,
    )


def _task(role: str, classes: tuple[str, ...] | None) -> Task:
    return Task(
        label="emotion",
        group="speaker",
        interval_over="speaker",
        splits=_folds,
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
    ),
)
