"""CSTR VCTK Corpus: some 400 read sentences of each of 109 speakers of English (110 in release 0.92), 48 kHz.

Layouts: release 0.92 ``wav48_silence_trimmed/pXXX/pXXX_NNN_mic1.flac`` (``mic2`` is the same clip through a second
microphone and is not read), and older ones ``wav48/pXXX/pXXX_NNN.wav``. ``speaker-info.txt`` has the columns ID, AGE,
GENDER, ACCENTS, REGION and COMMENTS; older releases write the ID without its p, and leave out p280: P0's unspecified
speaker. Homepage: https://datashare.ed.ac.uk/handle/10283/3443.
"""

import re
from pathlib import Path

from capslib import paths
from capslib.corpora.layout import Listing, clips, some
from capslib.corpora.table import Source, Task
from capslib.errors import CapslibError

GENDERS = {"F": "female", "M": "male"}
# P0 section 3.
SPEAKERS = {"male": 47, "female": 61}
_PROTOCOL = (
    "5 folds by speaker (P0 gives no split); about a seventh of the other speakers validates; speakers without a "
    "gender are left out"
)
_NAME = (
    r"(?:.*/)?wav48(?P<trimmed>_silence_trimmed)?/(?P<speaker>[ps]\d+)/(?P=speaker)_(?P<sentence>\d+)"
    r"(?(trimmed)_mic(?P<microphone>[12]))"
)


def _genders(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Gender by speaker ("p225"), and what of speaker-info.txt cannot be used."""
    files = sorted(folder.rglob("speaker-info.txt"))
    if not files:
        raise CapslibError(
            f"corpus 'vctk': {paths.shown(folder)} has clips but no speaker-info.txt, which says who is a man or a "
            "woman: put the owners' file there"
        )
    genders, unreadable = {}, []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
            words = line.split()
            if not words or words[0] == "ID":
                continue
            if len(words) >= 3 and words[2] in GENDERS and re.fullmatch(r"[ps]?\d+", words[0]):
                genders[words[0] if words[0][0] in "ps" else f"p{words[0]}"] = GENDERS[words[2]]
            else:
                unreadable.append(f"{file.relative_to(folder).as_posix()}, line {number}")
    return genders, some(unreadable, "line(s) of speaker-info.txt name no speaker or no gender")


def _read(folder: Path) -> Listing:
    table, notes = clips(folder, _NAME)
    if table.empty:
        return table, notes
    older = table["trimmed"].isna()
    if not older.all():
        reason = "clip(s) of an older release are not used, because release 0.92 is there too"
        notes += some(table.loc[older, "path"], reason)
        table = table[~older]
    second, clip = table["microphone"] == "2", table["speaker"] + table["sentence"]
    again = second & clip.isin(clip[~second])
    reason = "file(s) are the same clips through the second microphone and are not used"
    notes += some(table.loc[again, "path"], reason)
    notes += some(table.loc[second & ~again, "path"], "clip(s) have no file of the first microphone and are not used")
    genders, unusable = _genders(folder)
    table = table[~second].drop(columns=["trimmed", "microphone"])
    table["gender"] = table["speaker"].map(genders)
    unknown = table.loc[table["gender"].isna(), "speaker"].value_counts().sort_index()
    if len(table) and table["gender"].isna().all():
        raise CapslibError(
            f"corpus 'vctk': speaker-info.txt in {paths.shown(folder)} gives the gender of none of the {len(unknown)} "
            "speaker(s) with clips: put the owners' file there"
        )
    left_out = [f"{speaker} ({number} clips)" for speaker, number in unknown.items()]
    notes += unusable + some(left_out, "speaker(s) without a gender in speaker-info.txt are left out")
    table = table[table["gender"].notna()]
    notes += some(sorted(genders.keys() - set(table["speaker"])), "speaker(s) of speaker-info.txt have no clip")
    counts = table.groupby("gender")["speaker"].nunique().to_dict()
    if counts != SPEAKERS:
        ours = " and ".join(f"{counts.get(gender, 0)} {gender}" for gender in SPEAKERS)
        notes.append(f"{ours} speakers are available, P0 counts {SPEAKERS['male']} and {SPEAKERS['female']}")
    return table, notes


SOURCES = (
    Source(
        name="vctk",
        read=_read,
        tasks={"gender": Task("gender", "speaker", _PROTOCOL, role="P0 VCTK", evidence="same corpus")},
        citation="J. Yamagishi, C. Veaux and K. MacDonald, CSTR VCTK Corpus, University of Edinburgh, "
        "doi:10.7488/ds/2645",
        licence="CC BY 4.0 (release 0.92), ODC-By (older ones)",
        how_to_get="unpack VCTK-Corpus-0.92.zip from datashare.ed.ac.uk to vctk/ in the data folder, so that "
        "speaker-info.txt and wav48_silence_trimmed/ (or wav48/ of an older release) are there",
    ),
)
