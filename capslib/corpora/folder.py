"""Anybody's own recordings.

Two layouts: one folder per class (``birds/robin/a.wav``), or a csv with the columns ``path,label`` and perhaps
``group`` (who speaks, which recording a clip was cut from): ``birds/labels.csv``, paths relative to the csv.
Put the folder ``birds`` into the data folder and name the corpus ``folder:birds``, or call ``corpora.folder(path)``.
"""

from pathlib import Path

import pandas as pd

from capslib import paths
from capslib.corpora.layout import SUFFIXES, Listing, clips, some
from capslib.corpora.splits import Split, clip_folds, grouped_folds
from capslib.corpora.table import Corpus, Source, Task, assemble
from capslib.errors import CapslibError

_NO_GROUPS = (
    "no groups are given: splits are by clip, so if one speaker or recording gave several clips, results will look "
    "better than they are; give a csv with a column group"
)


def _read_csv(file: Path) -> Listing:
    where = paths.shown(file)
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")  # as Excel saves it, too
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CapslibError(f"{where} cannot be read as csv: {error}") from None
    lacking = " and ".join(column for column in ("path", "label") if column not in table)
    if lacking:
        raise CapslibError(f"{where} lacks the column {lacking}: its first line must be path,label or path,label,group")
    for column in table.columns.intersection(["label", "group"]):
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise CapslibError(f"{where}, line {empty[0] + 2}: empty {column}")
    twice = table.loc[table["path"].duplicated(), "path"]
    if len(twice):
        raise CapslibError(f"{where}, line {twice.index[0] + 2}: {twice.iloc[0]!r} is listed a second time")
    for path in map(Path, table["path"]):
        if path.is_absolute() or ".." in path.parts:
            raise CapslibError(f"{where}: {str(path)!r} leads out of its folder")
    available = table["path"].map(lambda path: (file.parent / path).is_file())
    notes = some(table.loc[~available, "path"], f"of {len(table)} files of {file.name} are not available")
    return table[available].reset_index(drop=True), notes


def _read_folders(folder: Path) -> Listing:
    table, notes = clips(folder, r"(?P<label>[^/]+)/.+")
    if table.empty:
        raise CapslibError(
            f"{paths.shown(folder)} holds no audio in one folder per class ({', '.join(SUFFIXES)}), and no labels.csv"
        )
    return table, notes


def source(path: Path, name: str, sample_rate: int = 16_000, num_folds: int = 5) -> Source:
    """How to read own recordings, a folder or a csv, as the corpus ``folder:name``. All clips are converted to
    ``sample_rate`` in hertz; there are at most ``num_folds`` folds, fewer if a class has fewer groups. Raises
    CapslibError if nothing is there; on reading, for a csv that cannot be used or a class of fewer than 3 groups."""
    if not path.exists():
        raise CapslibError(
            f"{paths.shown(path)} is not there: give a folder with one folder per class, or a csv of path,label,group"
        )
    table_file = path if path.suffix == ".csv" else path / "labels.csv"

    def read(_: Path) -> Listing:
        table, notes = _read_csv(table_file) if table_file.is_file() else _read_folders(path)
        if "group" in table:
            return table.rename(columns={"group": "source"}), notes
        itself = table["path"].map(lambda path: Path(path).with_suffix("").as_posix())  # whatever the container
        return table.assign(source=itself), [*notes, _NO_GROUPS]

    def splits(table: pd.DataFrame, *_: str) -> list[Split]:
        groups = table.groupby("label")["group"].nunique()
        scarce = groups.idxmin()
        if groups[scarce] < 3:
            raise CapslibError(
                f"class {scarce!r} has {groups[scarce]} group(s), and training, validation and test "
                f"need one each: add clips of {scarce!r} from other groups, or leave the class out"
            )
        cut = clip_folds if table["group"].is_unique else grouped_folds
        return cut(table, "group", "label", min(num_folds, int(groups[scarce])))

    protocol = f"at most {num_folds} folds by group; a seventh of the other groups validates"
    task = Task("label", "source", protocol, splits, interval_over="fold", evidence="own data")
    return Source(
        name="folder",
        read=read,
        folder=name,
        tasks={name: task},
        sample_rate=sample_rate,
        citation=f"own recordings {name!r}",
        licence="its owner's",
        how_to_get="put your recordings there: one folder per class, or labels.csv with path,label,group",
    )


def folder(path: str | Path, **options: object) -> Corpus:
    """The corpus of one's own recordings, wherever they lie; ``options`` are ``sample_rate`` and ``num_folds``. Raises
    CapslibError if ``path`` is not there, or holds nothing that can be classified."""
    path = Path(path)
    return assemble(source(path, path.stem, **options), path.stem, path if path.is_dir() else path.parent)
