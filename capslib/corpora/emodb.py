"""Berlin Database of Emotional Speech (EmoDB): ten actors, ten German sentences, 7 emotions, 16 kHz.

Layout: ``wav/SSTTTEv.wav`` (speaker, text, first letter of the German emotion, version). Homepage: http://emodb.bilderbar.info.
"""

from pathlib import Path

from capslib.corpora.iemocap import both_ways
from capslib.corpora.layout import Listing, absent, clips, expected
from capslib.corpora.splits import by_fold
from capslib.corpora.table import Budget, Source, Task

EMOTIONS = {"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}
FOUR = ("angry", "happy", "neutral", "sad")
# One man and one woman in each fold.
FOLDS = {"03": 1, "08": 1, "10": 2, "09": 2, "11": 3, "13": 3, "12": 4, "14": 4, "15": 5, "16": 5}
MEN = ("03", "10", "11", "12", "15")
_BY_FOLD = "5 folds of 2 speakers, a man and a woman; 2 of the other 8 validate"
_BY_PAIR = (
    "5 pairs of a man and a woman, one fold per pair: {roles}, the other pairs train, as P1 and P2 do with IEMOCAP's "
    "sessions"
)


def _read(folder: Path) -> Listing:
    table, notes = clips(
        folder, r"(?:.*/)?wav/(?P<speaker>03|08|09|1[0-6])(?P<text>[a-z]\d\d)(?P<code>[WLEAFTN])(?P<version>[a-z])"
    )
    table["emotion"] = table["code"].map(EMOTIONS)
    table["fold"] = table["speaker"].map(FOLDS)
    table["gender"] = table["speaker"].isin(MEN).map({True: "male", False: "female"})
    notes += absent(EMOTIONS.values(), table["emotion"], "no clip of {}")
    return table, notes + expected(len(table), 535, "clips")


SOURCES = (
    Source(
        name="emodb",
        read=_read,
        tasks={
            "emotion4": Task("emotion", "speaker", _BY_FOLD, by_fold, role="P0 IEMOCAP", classes=FOUR),
            "emotion7": Task("emotion", "speaker", _BY_FOLD, by_fold),
            **both_ways("emotion4_p2", "fold", _BY_PAIR, role="P1 IEMOCAP", classes=FOUR),
        },
        citation="F. Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
        licence="free for research, see its homepage",
        how_to_get="unpack the owners' download.zip to emodb/ in the data folder, so that emodb/wav/ holds the clips",
        budgets={"full": Budget(epochs=20, seeds=3, batch_size=16)},
    ),
)
