"""UrbanSound8K: 8,732 excerpts of up to 4 s from ten classes of city sounds, in ten official folds.

Layout: ``audio/fold{F}/{fsID}-{classID}-{occurrence}-{slice}.wav``. Excerpts of one field recording (fsID) never leave
their fold; only the official folds are honest. Homepage: https://urbansounddataset.weebly.com/urbansound8k.html.
"""

from pathlib import Path

from capslib.corpora.layout import Listing, absent, clips, expected
from capslib.corpora.splits import by_fold
from capslib.corpora.table import Budget, Source, Task

CLASSES = (
    "air_conditioner car_horn children_playing dog_bark drilling engine_idling gun_shot jackhammer siren street_music"
).split()
_PROTOCOL = "the official folds at hand test in turn; a seventh of the other folds' recordings validates"


def _read(folder: Path) -> Listing:
    table, notes = clips(
        folder, r"(?:.*/)?audio/fold(?P<fold>\d+)/(?P<recording>\d+)-(?P<code>\d)-(?P<occurrence>\d+)-(?P<slice>\d+)"
    )
    table["fold"] = table["fold"].astype(int)
    table["sound"] = table["code"].astype(int).map(dict(enumerate(CLASSES)))
    notes += absent(range(1, 11), table["fold"], "official folds {} are not available")
    return table, notes + expected(len(table), 8_732, "excerpts")


SOURCES = (
    Source(
        name="urbansound8k",
        read=_read,
        tasks={"sound": Task("sound", "recording", _PROTOCOL, by_fold, "fold", "P0 Urban8K", "same corpus")},
        citation="J. Salamon, C. Jacoby and J. P. Bello, A Dataset and Taxonomy for Urban Sound Research, ACM MM 2014",
        licence="CC BY-NC 3.0",
        how_to_get="unpack UrbanSound8K.tar.gz to urbansound8k/ in the data folder, "
        "so that urbansound8k/audio/ holds the folds",
        budgets={"full": Budget(epochs=12, batch_size=16)},
    ),
)
