"""Tiny archives of corpora that have to be asked for or fetched by hand, with the text files of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import trees

IEMOCAP_DIALOGS = ("F_impro01", "M_impro02", "F_script01_1")
# Ten speakers of the owners' list, five women and five men.
VCTK_SPEAKERS = {
    "p225": "F",
    "p226": "M",
    "p227": "M",
    "p228": "F",
    "p229": "F",
    "p230": "F",
    "p231": "F",
    "p232": "M",
    "p237": "M",
    "p241": "M",
}
MUSAN_ORIGINS = {
    "music": {"fma": "fma", "fma-western-art": "fma-wa"},
    "speech": {"librivox": "librivox", "us-gov": "us-gov"},
    "noise": {"free-sound": "free-sound", "sound-bible": "sound-bible"},
}


def iemocap(
    folder: Path,
    suffix: str = ".wav",
    sessions: Iterable[int] = range(1, 6),
    letters: str = "FM",
    codes: Iterable[str] = ("neu", "ang", "hap", "sad", "exc", "xxx"),
    dialogs: Iterable[str] = IEMOCAP_DIALOGS,
) -> Path:
    """``Session{k}/sentences/wav/{dialog}/{utterance}.wav``, 16 kHz; each speaker says every code once a dialog.

    The labels are in ``Session{k}/dialog/EmoEvaluation/{dialog}.txt``; single raters' files and the recordings of whole
    dialogs lie where the owners put them.
    """
    codes, dialogs = list(codes), list(dialogs)
    folder.mkdir(parents=True, exist_ok=True)
    for session in sessions:
        for name in dialogs:
            dialog, home = f"Ses0{session}{name}", folder / f"Session{session}"
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for turn, (letter, code) in enumerate((letter, code) for letter in letters for code in codes):
                utterance = f"{dialog}_{letter}{turn % len(codes):03d}"
                trees.write(home / "sentences" / "wav" / dialog / f"{utterance}{suffix}", rate=16_000)
                lines += [
                    f"[{turn * 3 + 0.29:.4f} - {turn * 3 + 2.2357:.4f}]\t{utterance}\t{code}\t[2.5000, 2.5000, 3.0000]",
                    "C-E2:\tNeutral;\t()",
                    "A-E3:\tval 3; act 2; dom  2;\t(curious)",
                    "",
                ]
            evaluation = home / "dialog" / "EmoEvaluation"
            (evaluation / "Categorical").mkdir(parents=True, exist_ok=True)
            (evaluation / f"{dialog}.txt").write_text("\n".join(lines), encoding="utf-8")
            (evaluation / f"._{dialog}.txt").write_bytes(b"\x00\x05\x16\x07\x00Mac OS X")  # as in the owners' archive
            (evaluation / "Categorical" / f"{dialog}_e2_cat.txt").write_text(
                f"{dialog}_F000 :Anger; ()\n", encoding="utf-8"
            )
            trees.write(home / "dialog" / "wav" / f"{dialog}{suffix}", rate=16_000)
    return folder


def vctk(
    folder: Path,
    suffix: str = "",
    release: str = "0.92",
    speakers: Mapping[str, str] = VCTK_SPEAKERS,
    unspecified: Iterable[str] = (),
    sentences: Iterable[int] = (1, 2, 3),
) -> Path:
    """48 kHz; "0.92": ``wav48_silence_trimmed/pXXX/pXXX_NNN_mic{1,2}.flac``, "older": ``wav48/pXXX/pXXX_NNN.wav``.

    ``unspecified`` speakers have clips, of the first microphone alone, and no line in ``speaker-info.txt``.
    """
    sentences, unspecified, trimmed = list(sentences), list(unspecified), release == "0.92"
    suffix = suffix or (".flac" if trimmed else ".wav")
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / ("wav48_silence_trimmed" if trimmed else "wav48")
    for speaker in [*speakers, *unspecified]:
        for sentence in sentences:
            stem = f"{speaker}_{sentence:03d}"
            for ending in ("_mic1", "_mic2")[: 1 if speaker in unspecified else 2] if trimmed else ("",):
                trees.write(home / speaker / f"{stem}{ending}{suffix}", rate=48_000)
            (folder / "txt" / speaker).mkdir(parents=True, exist_ok=True)
            (folder / "txt" / speaker / f"{stem}.txt").write_text("Please call Stella.\n", encoding="utf-8")
    rows = ["ID  AGE  GENDER  ACCENTS  REGION COMMENTS " if trimmed else "ID  AGE  GENDER  ACCENTS  REGION"]
    for speaker, gender in speakers.items():
        rows.append(f"{speaker if trimmed else speaker[1:]}  23  {gender}    English    Southern  England")
    (folder / "speaker-info.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def musan(folder: Path, suffix: str = ".wav", kinds: Iterable[str] = tuple(MUSAN_ORIGINS), files: int = 5) -> Path:
    """``{kind}/{origin}/{kind}-{origin}-NNNN.wav``, 16 kHz, with the owners' text files; ``files`` an origin."""
    for kind in kinds:
        for origin, short in MUSAN_ORIGINS[kind].items():
            (folder / kind / origin).mkdir(parents=True, exist_ok=True)
            for number in range(files):
                trees.write(folder / kind / origin / f"{kind}-{short}-{number:04d}{suffix}", rate=16_000)
            for name in ("ANNOTATIONS", "LICENSE"):
                (folder / kind / origin / name).write_text(f"{kind}-{short}-0000\n", encoding="utf-8")
    return folder
