"""RAVDESS speech: 24 actors (odd numbers male), 8 emotions, two sentences, 48 kHz.

Layout: ``Actor_NN/MM-VV-EE-II-SS-RR-AA.wav`` (modality, vocal channel, emotion, intensity, statement, repetition,
actor). Only audio-only speech (03-01) is read: the sound of the video files is the same recording again. Homepage:
https://zenodo.org/records/1188976.
"""

from pathlib import Path

from capslib.corpora.layout import Listing, clips, expected
from capslib.corpora.splits import grouped_folds
from capslib.corpora.table import Archive, Budget, Source, Task

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08


def _read(folder: Path) -> Listing:
    table, notes = clips(
        folder,
        r"(?:.*/)?Actor_\d\d/03-01-(?P<code>0[1-8])-(?P<intensity>\d\d)-(?P<statement>\d\d)"
        r"-(?P<repetition>\d\d)-(?P<actor>\d\d)",
    )
    table["emotion"] = table["code"].astype(int).map(dict(enumerate(EMOTIONS, start=1)))
    table["gender"] = (table["actor"].astype(int) % 2).map({1: "male", 0: "female"})
    return table, notes + expected(len(table), 1_440, "speech clips")


def _task(*classes: str, **facts: object) -> Task:
    return Task(
        label="emotion",
        group="actor",
        protocol="5 folds by actor, men and women spread evenly; about 3 of the other actors validate",
        splits=lambda table, group, _: grouped_folds(table, group, "gender"),
        classes=classes,
        **facts,
    )


SOURCES = (
    Source(
        name="ravdess",
        read=_read,
        tasks={
            "emotion6": _task(*EMOTIONS[:6], role="P0 RAVDESS", evidence="same corpus"),
            "emotion4": _task("angry", "happy", "neutral", "sad", role="P1 IEMOCAP"),
            "emotion8": _task(*EMOTIONS),
        },
        citation="S. R. Livingstone and F. A. Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, "
        "2018",
        licence="CC BY-NC-SA 4.0",
        how_to_get="run `make data CORPORA=ravdess`, or unpack Audio_Speech_Actors_01-24.zip to ravdess/ in the data "
        "folder",
        archive=Archive(
            file="Audio_Speech_Actors_01-24.zip",
            url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
            site="Zenodo",
            doi="10.5281/zenodo.1188976",
            checksum="md5:bc696df654c87fed845eb13823edef8a",
        ),
        budgets={"full": Budget(epochs=15, batch_size=16)},
    ),
)
