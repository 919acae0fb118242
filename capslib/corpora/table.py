"""What a corpus is: a table of clips, its classes, its splits, its audio on demand, and where it came from."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from capslib import paths
from capslib.corpora import audio as decoding
from capslib.corpora import splits as protocols
from capslib.corpora.layout import Listing
from capslib.corpora.splits import PARTS, Split
from capslib.errors import CapslibError, choose

EVIDENCE = ("same corpus", "stand-in", "own data", "synthetic")


@dataclass(frozen=True)
class Task:
    """One question asked of a corpus."""

    label: str  # column of the table that holds the class
    group: str  # column whose values (speakers, source recordings) never straddle a split
    protocol: str  # one sentence for the reader
    # From the table and the names of its columns of groups and labels to the protocol's splits.
    splits: Callable[[pd.DataFrame, str, str], list[Split]] = protocols.grouped_folds
    # Column whose values are the independent units of a confidence interval, or "fold"; by default the group.
    interval_over: str = ""
    role: str = ""  # in whose place the corpus stands, as "P0 VCTK" ("" if no paper has it)
    evidence: str = "stand-in"  # one of EVIDENCE: whose recordings they are, beside those of the paper
    classes: tuple[str, ...] | None = None  # those of the archive's labels that the task uses; None for all
    multi_label: bool = False  # a clip can have several classes: its label is those it has, sorted and joined by "+"
    alone: bool = True  # classified for its own sake; False for corpora that are there to be mixed

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval_over", self.interval_over or self.group)


@dataclass(frozen=True)
class Archive:
    """Where the owners of a corpus let anyone download it, and how a download is known to be theirs."""

    file: str  # name of the archive, as a browser saves it
    url: str
    site: str  # of the owners, for messages
    doi: str = ""  # of the record that states the owners' checksum
    checksum: str | None = None  # what that record states, "md5:..."; for copies on a mirror
    listing: Path | None = None  # csv of path and SHA-256 of every clip, where archives (GitHub's) change their bytes
    top: str = ""  # folder inside the archive that becomes the corpus's ("" for the archive itself)


@dataclass(frozen=True)
class Budget:
    """How much training one corpus gets in a profile; the same for every system."""

    epochs: int = 30
    seeds: int = 1  # from 0
    batch_size: int = 32  # clips
    max_splits: int | None = None  # folds, from the first; None for all
    max_train_clips: int | None = None  # None for all


@dataclass(frozen=True)
class Source:
    """Everything about one archive: a new corpus is one file with one of these in its ``SOURCES``."""

    name: str
    # From the archive's folder to its clips: columns path (relative to the folder; without its suffix the clip's id),
    # and whatever the tasks name.
    read: Callable[[Path], Listing]
    tasks: Mapping[str, Task]  # by name; the first is the default
    citation: str
    licence: str
    how_to_get: str
    folder: str = ""  # of the archive under $CAPSLIB_DATA; by default the name
    sample_rate: int = 16_000  # hertz; other rates are resampled to it
    archive: Archive | None = None  # where to download it; None if its owners have to be asked
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # by profile; else the study's (study.grids.BUDGETS)
    make: Callable[[], Path] | None = None  # writes the folder itself (embedded corpora, mixtures); None for recordings
    made_from: tuple[str, ...] = ()  # names of the corpora that a mixture needs

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder or self.name)


@dataclass(frozen=True)
class Corpus:
    """Clips at hand, for one task."""

    name: str  # "fsdd"
    task: str  # "digit"
    # Indexed by item id; columns path, label, group, unit (of intervals), duration in seconds, sha256, row (in
    # ``decoded``), and the archive's own (speaker, gender, ...).
    table: pd.DataFrame
    splits: tuple[Split, ...]  # the protocol's, as item ids
    missing: tuple[str, ...]  # what of the archive is not on disk, one sentence each
    left_out: pd.DataFrame  # path, reason: clips that could not be used
    converted: pd.DataFrame  # path, reason: clips that were changed on reading
    source: Source
    decoded: decoding.Audio = field(repr=False)

    @property
    def key(self) -> str:
        """How configurations name it: "ased:gender"."""
        return f"{self.name}:{self.task}"

    @property
    def about(self) -> Task:
        """Label, group, protocol and role of the task at hand."""
        return self.source.tasks[self.task]

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted class names; a class's position is its index in every model and confusion matrix. Those of a
        multi-label task are single ones: a clip labelled "female+male" has two of them."""
        labels = self.table["label"].unique()
        if self.about.multi_label:
            return tuple(sorted({name for label in labels for name in label.split("+")}))
        return tuple(sorted(labels))

    @property
    def sample_rate(self) -> int:
        """Of every clip, in hertz."""
        return self.decoded.sample_rate

    def audio(self, item: str) -> np.ndarray:
        """Samples of one clip, float32 in [-1, 1), shape (n,). Raises CapslibError for an unknown id."""
        row = self.table["row"].get(item)
        if row is None:
            raise CapslibError(f"corpus {self.name!r} has no clip {item!r}: its ids are in .table.index")
        return self.decoded[int(row)].astype(np.float32) / 32768.0

    def split(self, name: str) -> Split:
        """The split called ``name``. Raises CapslibError for an unknown name, with the nearest."""
        names = [split.name for split in self.splits]
        return self.splits[names.index(choose(name, names, f"split of corpus {self.name!r}"))]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (16 digits) over ids, labels, groups and integer samples: the same on every machine."""
        digest = hashlib.sha256()
        for item, row in self.table.sort_index().iterrows():
            line = f"{item}\t{row['label']}\t{row['group']}\t{row['sha256']}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))  # file names need not be UTF-8
        return digest.hexdigest()[:16]

    def split_fingerprint(self, name: str) -> str:
        """SHA-256 (16 digits) over the data and which clips train, validate and test in the split ``name``."""
        split = self.split(name)
        parts = [self.fingerprint, split.train, split.validation, split.test]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def card(self) -> dict:
        """The facts about the corpus that a report needs when the recordings themselves are not at hand."""
        about = self.about
        return {
            "corpus": self.key,
            "evidence": about.evidence,
            "role": about.role,
            "clips": len(self.table),
            "classes": list(self.classes),
            **({"multi_label": True} if about.multi_label else {}),
            "groups": int(self.table["group"].nunique()),
            "group": about.group,
            "interval_over": about.interval_over,
            "hours": round(float(self.table["duration"].sum()) / 3600, 3),
            "sample_rate": self.sample_rate,
            "protocol": about.protocol,
            "splits": {
                s.name: {part: len(getattr(s, part)) for part in PARTS}
                | {"fingerprint": self.split_fingerprint(s.name)}
                for s in self.splits
            },
            "left_out": len(self.left_out),
            "missing": list(self.missing),
            "fingerprint": self.fingerprint,
            "licence": self.source.licence,
            "citation": self.source.citation,
            "how_to_get": self.source.how_to_get,
        }

    def summary(self) -> pd.DataFrame:
        """Clips, groups and seconds of each class, one row per class."""
        columns = {
            "clips": ("group", "size"),
            f"{self.about.group}s": ("group", "nunique"),
            "seconds (median)": ("duration", "median"),
            "seconds (longest)": ("duration", "max"),
        }
        return self.table.groupby("label").agg(**columns).round(2)


def assemble(source: Source, task: str, folder: Path) -> Corpus:
    """Read, decode, leave out what cannot be used, and split. Raises CapslibError if nothing usable is there, or the
    splits would let a group or a recording straddle."""
    about = source.tasks[task]
    called = f"{source.name}:{task}" if about.evidence == "own data" else source.name
    where = f"corpus {called!r}"
    table, missing = source.read(folder)
    if table.empty:
        raise CapslibError(f"{where}: no clip in {paths.shown(folder)}; {source.how_to_get}")
    table = table.sort_values("path").reset_index(drop=True)
    table["id"] = [Path(p).with_suffix("").as_posix() for p in table["path"]]
    twice = table.loc[table["id"].duplicated(), "path"]
    if len(twice):
        raise CapslibError(f"{where}: {twice.iloc[0]!r} is there twice in different containers: keep one of them")
    files = [folder / path for path in table["path"]]
    decoded = decoding.load(source.name, files, table["path"].tolist(), source.sample_rate)
    table = table.assign(row=range(len(table)), duration=decoded.seconds, sha256=decoded.hashes)
    table = table[~table["path"].isin(decoded.left_out["path"])].set_index("id")
    table["label"] = table[about.label].astype(str)
    if about.classes:
        table = table[table["label"].isin(about.classes)].copy()
    table["group"] = table[about.group].astype(str)
    if table.empty and decoded.left_out.empty:
        names = ", ".join(sorted(about.classes or ()))
        raise CapslibError(f"{where}: no clip of the classes of task {task!r} ({names}); {source.how_to_get}")
    if table.empty:
        path, reason = decoded.left_out.iloc[0]
        raise CapslibError(f"{where}: none of {len(decoded.left_out)} clips can be used; the first, {path}: {reason}")
    if table["label"].nunique() < 2:
        raise CapslibError(
            f"{where}: all clips are of class {table['label'].iloc[0]!r}: a classifier needs two classes"
        )
    try:
        splits = about.splits(table, about.group, about.label)
    except CapslibError as error:
        raise CapslibError(f"{where}: {error}") from None
    protocols.check(table, splits, called)
    if about.interval_over == "fold":
        table["unit"] = pd.Series({item: split.name for split in splits for item in split.test}).reindex(table.index)
    else:
        table["unit"] = table[about.interval_over].astype(str)
    facts = {"left_out": decoded.left_out, "converted": decoded.converted, "source": source, "decoded": decoded}
    return Corpus(source.name, task, table, tuple(splits), tuple(missing), **facts)
