"""Anybody's own recordings.

Two layouts: one folder a class (``birds/robin/a.wav``), or a csv with the columns ``path,label`` and, if there is one,
``group`` (who speaks, which recording a clip was cut from): ``birds/labels.csv``, paths relative to the csv.
Put the folder ``birds`` into the data folder and name the corpus ``folder:birds``, or call ``corpora.folder(path)``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from capslib import paths
from capslib.corpora.layout import SUFFIXES, clips
from capslib.corpora.splits import Split, by_fold, clip_folds, grouped_folds
from capslib.corpora.table import Source, Task
from capslib.errors import CapslibError

_NO_GROUPS = (
    "no groups are given: splits are by clip, so if one speaker or recording gave several clips, results will look "
    "better than they are; give a csv with a column group"
)


def _read_csv(file: Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")  # as Excel saves it, too
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CapslibError(f"{paths.shown(file)} cannot be read as csv: {error}") from None
    absent = [column for column in ("path", "label") if column not in table.columns]
    if absent:
        raise CapslibError(
            f"{paths.shown(file)} lacks the column {' and '.join(absent)}: its first line must be path,label or path,label,group"
        )
    for column in ("label", "group"):
        if column in table and (table[column].str.strip() == "").any():
            row = table.index[table[column].str.strip() == ""][0]
            raise CapslibError(f"{paths.shown(file)}, line {row + 2}: empty {column}")
    twice = table["path"].duplicated()
    if twice.any():
        row = table.index[twice][0]
        raise CapslibError(f"{paths.shown(file)}, line {row + 2}: {table['path'][row]!r} is listed a second time")
    outside = table["path"].map(lambda p: Path(p).is_absolute() or ".." in Path(p).parts)
    if outside.any():
        raise CapslibError(f"{paths.shown(file)}: {table.loc[outside, 'path'].iloc[0]!r} leads out of its folder")
    here = table["path"].map(lambda p: (file.parent / p).is_file())
    absent = table.loc[~here, "path"]
    notes = (
        [f"{len(absent)} of {len(table)} files of {file.name} are not here, e.g. {absent.iloc[0]}"]
        if len(absent)
        else []
    )
    return table[here].reset_index(drop=True), notes


def _read_folders(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    table, notes = clips(folder, r"(?P<label>[^/]+)/.+")
    if table.empty:
        raise CapslibError(
            f"{paths.shown(folder)} holds no audio in one folder a class ({', '.join(SUFFIXES)}), and no labels.csv"
        )
    return table, notes


def source(path: Path, name: str, sample_rate: int = 16_000, num_folds: int = 5) -> Source:
    """How to read one folder (or csv) of own recordings.

    Args:
        path: the folder, or a csv.
        name: of the corpus; its key is ``folder:name``.
        sample_rate: to which all clips are converted, in hertz.
        num_folds: at most; fewer if a class has fewer groups.
    Raises:
        CapslibError: if nothing is there, the csv lacks a column, or a class has only one group.
    """
    if not path.exists():
        raise CapslibError(
            f"{paths.shown(path)} is not there: give a folder with one folder a class, or a csv of path,label,group"
        )
    table_file = path if path.suffix == ".csv" else path / "labels.csv"

    def read(_: Path) -> tuple[pd.DataFrame, list[str]]:
        table, notes = _read_csv(table_file) if table_file.is_file() else _read_folders(path)
        if "group" in table:
            return table.rename(columns={"group": "source"}), notes
        itself = table["path"].map(lambda path: Path(path).with_suffix("").as_posix())  # whatever the container
        return table.assign(source=itself), [*notes, _NO_GROUPS]

    def splits(table: pd.DataFrame) -> list[Split]:
        groups = table.groupby("label")["group"].nunique()
        scarce = groups.idxmin()
        if groups[scarce] < 3:
            raise CapslibError(
                f"class {scarce!r} has {groups[scarce]} group(s), and training, validation and test "
                f"need one each: add clips of {scarce!r} from other groups, or leave the class out"
            )
        folds = min(num_folds, int(groups[scarce]))
        by_clip = table["group"].is_unique
        numbered = clip_folds(table, "label", folds) if by_clip else grouped_folds(table, "group", "label", folds)
        return by_fold(table.assign(fold=numbered), "group", "label")

    task = Task(
        label="label",
        group="source",
        interval_over="fold",
        splits=splits,
        protocol=f"at most {num_folds} folds by group; a seventh of the other groups validates",
        evidence="own data",
    )
    return Source(
        name="folder",
        read=read,
        folder=name,
        tasks={name: task},
        sample_rate=sample_rate,
        citation=f"own recordings {name!r}",
        licence="its owner's",
        homepage="",
        how_to_get="put your recordings there: one folder a class, or labels.csv with path,label,group",
    )
