"""IEMOCAP: five sessions of a woman and a man in dialogue, 16 kHz; only the improvised dialogs, as in P1 and P2.

Layout: ``Session{k}/sentences/wav/{dialog}/{utterance}.wav``, where the last part of an utterance's name says who
speaks (``_F000``, ``_M001``), and ``Session{k}/dialog/EmoEvaluation/{dialog}.txt``, where the raters' common label of
each utterance is a line ``[start - end] utterance code [valence, activation, dominance]``. Scripted dialogs and the
recordings of whole dialogs (``dialog/wav``) are not read; "excited" is not counted as happy. Homepage:
https://sail.usc.edu/iemocap.
"""

import re
from pathlib import Path

import pandas as pd

from capslib import paths
from capslib.corpora.layout import Listing, absent, clips, some
from capslib.corpora.splits import pairs
from capslib.corpora.table import Source, Task
from capslib.errors import CapslibError

EMOTIONS = {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"}
# Disgusted, excited, fearful, frustrated, other, surprised, and no agreement of the raters.
UNUSED = ("dis", "exc", "fea", "fru", "oth", "sur", "xxx")
# P2 Table III: improvised utterances of the four classes in the whole archive.
COUNTS = {"neutral": 1_099, "angry": 289, "happy": 284, "sad": 608}
_PROTOCOL = "improvised dialogs; one fold per session: {roles}, the other sessions train, as in P1 and P2"
_NAME = (
    r"(?:.*/)?Session(?P<session>[1-5])/(?:dialog/wav/Ses\w+|sentences/wav/"
    r"(?P<dialog>Ses0(?P=session)[FM]_(?P<scenario>impro|script)\w*)/(?P<utterance>(?P=dialog)_(?P<letter>[FM])\w+))"
)
_LABEL = re.compile(
    r"\[\d+\.\d+ - \d+\.\d+\]\s+(?P<utterance>Ses0\d[FM]_\w+)\s+(?P<code>[a-z]{3})\s+\[\d\.\d+, \d\.\d+, \d\.\d+\]"
)


def _labels(folder: Path) -> tuple[pd.Series, list[str]]:
    """Emotion by utterance, and what of the label files cannot be used."""
    emotions, unreadable, without, torn = {}, [], [], set()
    for file in sorted(folder.rglob("Session*/dialog/EmoEvaluation/Ses*_impro*.txt")):
        where, before = file.relative_to(folder).as_posix(), len(emotions)
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            without.append(f"{where} ({error.strerror})")
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            match = _LABEL.fullmatch(line.strip())
            if match and match["code"] in (*EMOTIONS, *UNUSED):
                emotion = EMOTIONS.get(match["code"], match["code"])
                if emotions.setdefault(match["utterance"], emotion) != emotion:
                    torn.add(match["utterance"])
            elif line.startswith("[") or "Ses0" in line:  # the others are single raters' remarks
                unreadable.append(f"{where}, line {number}")
        if len(emotions) == before:
            without.append(where)
    notes = (
        some(unreadable, "label line(s) cannot be read")
        + some(without, "label file(s) hold no label")
        + some(sorted(torn), "utterance(s) have two different labels and are not used")
    )
    return pd.Series(emotions, dtype=object).drop(list(torn)), notes


def _read(folder: Path) -> Listing:
    table, notes = clips(folder, _NAME)
    table = table[table["scenario"] == "impro"].drop(columns="scenario")
    labels, unusable = _labels(folder)
    table["emotion"] = table["utterance"].map(labels)
    table["speaker"] = "Ses0" + table["session"] + table["letter"]
    table["gender"] = table.pop("letter").map({"F": "female", "M": "male"})
    bare = table["emotion"].isna()
    if len(table) and bare.all():
        raise CapslibError(
            f"corpus 'iemocap': none of the {len(table)} improvised utterances in {paths.shown(folder)} has a label: "
            "put the owners' text files into Session*/dialog/EmoEvaluation/"
        )
    lost = labels.index[~labels.index.isin(table["utterance"])]
    notes += unusable + some(lost, "labelled utterance(s) have no recording")
    notes += some(table.loc[bare, "path"], "improvised utterance(s) have no label and are not used")
    return table[~bare], notes + _incomplete(table[~bare])


def _incomplete(table: pd.DataFrame) -> list[str]:
    """What of P1's and P2's utterances is not available."""
    used = table[table["emotion"].isin(COUNTS)]
    speakers = used.groupby("session")["speaker"].nunique()
    notes = absent("12345", used["session"], "session(s) {} are not available")
    alone = ", ".join(sorted(speakers.index[speakers < 2]))
    notes += [f"session(s) {alone} have one speaker only: they train, and make no fold"] if alone else []
    counts = {emotion: int((used["emotion"] == emotion).sum()) for emotion in COUNTS}
    if counts != COUNTS:
        ours = ", ".join(f"{counts[emotion]} of {number:,} {emotion}" for emotion, number in COUNTS.items())
        notes.append(f"the utterances are not those of P1 and P2: {ours}")
    return notes


def both_ways(name: str, pair: str, protocol: str, **facts: object) -> dict[str, Task]:
    """P1's and P2's protocol as two tasks: in ``name`` the man of each pair tests, in ``name``_swapped the woman.
    ``pair`` is the column that numbers the pairs; ``protocol`` has ``{roles}`` where it says who tests, who validates.
    """

    def task(tester: str, other: str, remark: str) -> Task:
        sentence = protocol.format(roles=f"its {tester} speaker tests, its {other} one validates ({remark})")
        return Task("emotion", "speaker", sentence, lambda table, *_: pairs(table, pair, tester), **facts)

    return {
        name: task("male", "female", f"the papers do not say which; {name}_swapped has it the other way round"),
        f"{name}_swapped": task("female", "male", f"the roles of {name} swapped"),
    }


SOURCES = (
    Source(
        name="iemocap",
        read=_read,
        tasks=both_ways(
            "emotion4", "session", _PROTOCOL, role="P0 IEMOCAP", evidence="same corpus", classes=tuple(COUNTS)
        ),
        citation="C. Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, 2008",
        licence="for research, by agreement with its owners",
        how_to_get="ask its owners at sail.usc.edu/iemocap, and unpack IEMOCAP_full_release to iemocap/ in the data "
        "folder, so that sentences/wav and dialog/EmoEvaluation of every session are there",
    ),
)
