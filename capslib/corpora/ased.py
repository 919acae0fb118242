"""Amharic Speech Emotion Dataset: 65 speakers (25 women, 40 men), 5 emotions, 7 sentences.

Layout: ``NNEmotion/xN-sentence-repetition-gender-speaker.wav`` (gender 01 female, 02 male). Five speakers carry a few
wrong gender codes; each speaker's majority decides. Homepage: https://github.com/Ethio2021/ASED_V1.
"""

from functools import partial
from pathlib import Path

from capslib.corpora.layout import Listing, clips, expected
from capslib.corpora.splits import by_fold
from capslib.corpora.table import Budget, Source, Task

EMOTIONS = {"1": "neutral", "2": "fearful", "3": "happy", "4": "sad", "5": "angry"}
_BY_SPEAKER = "5 folds by speaker; about a seventh of the other speakers validates"
_BY_SENTENCE = "one sentence tests, each in turn, and another validates: no speaker is recognized by the words"


def _read(folder: Path) -> Listing:
    table, notes = clips(
        folder,
        r"(?:.*/)?0\d[A-Za-z]+/[a-zA-Z](?P<code>[1-5])-(?P<sentence>\d\d)-(?P<repetition>\d\d)"
        r"-(?P<gender_code>\d\d)-(?P<speaker>\d\d)",
    )
    table["emotion"] = table["code"].map(EMOTIONS)
    majority = table.groupby("speaker")["gender_code"].agg(lambda codes: codes.mode().iloc[0])
    table["gender"] = table["speaker"].map(majority).map({"01": "female", "02": "male"})
    if corrected := int((table["gender_code"] != table["speaker"].map(majority)).sum()):
        notes.append(f"{corrected} gender code(s) contradict their speaker's other clips: the majority is taken")
    return table, notes + expected(len(table), 2_474, "clips")


SOURCES = (
    Source(
        name="ased",
        read=_read,
        tasks={
            "gender": Task("gender", "speaker", _BY_SPEAKER, role="P0 VCTK"),
            "emotion": Task("emotion", "speaker", _BY_SPEAKER),
            "speaker": Task("speaker", "sentence", _BY_SENTENCE, partial(by_fold, fold="sentence"), role="P3 CHAINS"),
        },
        citation="E. A. Retta et al., A New Amharic Speech Emotion Dataset and Classification Benchmark, 2022",
        licence="see its homepage",
        how_to_get="clone its repository and put the five emotion folders into ased/ in the data folder",
        budgets={"full": Budget(epochs=8, batch_size=16)},
    ),
)
