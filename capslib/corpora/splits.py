"""Protocols: which clips train, validate and test; and the proof that nothing straddles.

Every function here is deterministic and sees labels and groups only. A group (speaker, source recording)
lies whole in one part; where a protocol cannot have that for validation, the split says so.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from capslib.errors import CapslibError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Item ids of one fold."""

    name: str  # of the fold, e.g. the test speaker
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    validation_shares_groups: bool = False  # validation clips come from the training speakers, as too few remain


def _split(table: pd.DataFrame, name: str, validation: pd.Series, test: pd.Series, shares: bool = False) -> Split:
    """A split from two masks by item: the clips of neither train."""
    train, validation, test = (tuple(table.index[part]) for part in (~(validation | test), validation, test))
    return Split(name, train, validation, test, shares)


def leave_one_group_out(table: pd.DataFrame, group: str, validation: pd.Series) -> list[Split]:
    """One fold per group; ``validation`` (bool, by item) marks which clips of the other groups validate."""
    tests = {str(name): table[group] == name for name in sorted(table[group].unique())}
    return [_split(table, name, validation & ~test, test, shares=True) for name, test in tests.items()]


def pairs(table: pd.DataFrame, pair: str, tester: str) -> list[Split]:
    """One fold per pair of a man and a woman: one of the two tests, the other validates, and all other clips train.

    A pair of which only one speaker has clips makes no fold: its clips train in all folds. The column ``pair`` numbers
    the pairs; its name and value name the fold, as "session1". ``tester`` is the gender of the speaker that tests.
    Raises CapslibError if no pair has clips of both its speakers.
    """
    genders = table.groupby(pair)["gender"].nunique()
    numbers = sorted(genders.index[genders == 2])
    if not numbers:
        raise CapslibError(
            f"no {pair} has clips of both its speakers, and one has to validate while the other tests: add recordings"
        )
    tests = table["gender"] == tester
    masks = {f"{pair}{number}": table[pair] == number for number in numbers}
    return [_split(table, name, inside & ~tests, inside & tests) for name, inside in masks.items()]


def _cut(part: pd.DataFrame, group: str, stratify: str, at_most: int) -> list[np.ndarray]:
    """Positions of each fold: as many folds as ``at_most``, fewer where there are too few groups or clips."""
    groups, clips = part[group].nunique(), int(part[stratify].value_counts().max())
    if min(groups, clips) < 2:
        raise CapslibError(
            f"{groups} {group}(s) with at most {clips} clip(s) per class cannot be split into training, validation "
            "and test: add recordings"
        )
    cut = StratifiedGroupKFold(n_splits=min(at_most, groups, clips))
    with warnings.catch_warnings():  # a rare class cannot be in every fold; `check` refuses what a result depends on
        warnings.simplefilter("ignore", UserWarning)
        return [test for _, test in cut.split(part, part[stratify], part[group])]


def by_fold(table: pd.DataFrame, group: str, stratify: str, fold: str = "fold") -> list[Split]:
    """One split per value of the column ``fold``; about a seventh of the other folds' groups validates.

    Whole groups validate: two of eight, one where there are fewer. Numbered folds are called "fold1"; others (a
    speaker, a sentence) bear the value's own name. Raises CapslibError if the other folds have fewer than two groups.
    """
    splits = []
    for number in sorted(table[fold].unique()):
        test = table[fold] == number
        rest = table[~test]
        num_groups = rest[group].nunique()
        if num_groups < 2:
            raise CapslibError(f"only one {group} is left for training when fold {number} is the test: add recordings")
        num_cuts = min(7, num_groups // 2) if num_groups >= 8 else num_groups
        chosen = next(cut for cut in _cut(rest, group, stratify, num_cuts) if len(cut))
        validation = pd.Series(table.index.isin(rest.index[chosen]), table.index)
        splits.append(_split(table, number if isinstance(number, str) else f"fold{number}", validation, test))
    return splits


def _numbered(table: pd.DataFrame, cuts: Iterable[np.ndarray], group: str, stratify: str) -> list[Split]:
    folds = pd.Series(0, index=table.index)
    for number, test in enumerate(cuts, start=1):
        folds.iloc[test] = number
    return by_fold(table.assign(fold=folds), group, stratify)


def grouped_folds(table: pd.DataFrame, group: str, stratify: str, num_folds: int = 5) -> list[Split]:
    """``by_fold`` over folds 1 to ``num_folds`` that keep groups whole and spread the values of ``stratify`` evenly. A
    small subset of an archive gives fewer folds; raises CapslibError if there are too few groups or clips."""
    return _numbered(table, _cut(table, group, stratify, num_folds), group, stratify)


def clip_folds(table: pd.DataFrame, group: str, stratify: str, num_folds: int = 5) -> list[Split]:
    """``by_fold`` over folds by clip, where every clip is a group: results say nothing of new speakers and rooms."""
    cuts = StratifiedKFold(n_splits=num_folds).split(table, table[stratify])
    return _numbered(table, (test for _, test in cuts), group, stratify)


def check(table: pd.DataFrame, splits: Sequence[Split], corpus: str) -> None:
    """Prove what a result depends on: no clip, no ``group`` and no recording (``sha256``) lies on both sides. Raises
    CapslibError naming the corpus, the split and the clips."""
    for split in splits:
        where = f"corpus {corpus!r}, split {split.name!r}"
        parts = {part: list(getattr(split, part)) for part in PARTS}
        empty = [part for part, ids in parts.items() if not ids]
        if empty:
            raise CapslibError(f"{where}: no clips for {' and '.join(empty)}: add recordings or ask for fewer folds")
        missing = sorted(set(table["label"]) - set(table.loc[parts["train"], "label"]))
        if missing:
            groups = table.loc[table["label"] == missing[0], "group"].unique()
            raise CapslibError(
                f"{where}: class {missing[0]!r} has no training clip left, because all its clips come from "
                f"{len(groups)} group(s) ({', '.join(groups[:3])}): add clips of that class from another group"
            )
        owner = pd.concat([pd.Series(part, index=ids) for part, ids in parts.items()])
        if owner.index.has_duplicates:
            clip = owner.index[owner.index.duplicated()][0]
            raise CapslibError(f"{where}: clip {clip!r} lies in two parts")
        rows = table.loc[owner.index].assign(part=owner.to_numpy())
        guarded = rows.replace({"part": {"validation": "train"}}) if split.validation_shares_groups else rows
        straddling = guarded.groupby("group")["part"].nunique()
        if (straddling > 1).any():
            raise CapslibError(f"{where}: group {straddling.index[straddling > 1][0]!r} lies in two parts")
        for _, same in rows[rows.duplicated("sha256", keep=False)].groupby("sha256"):
            if same["part"].nunique() > 1:
                (one, part), (other, other_part) = same.drop_duplicates("part")["part"].head(2).items()
                raise CapslibError(
                    f"{where}: clips {one!r} ({part}) and {other!r} ({other_part}) are the same recording: remove one "
                    "of them, or give both one group"
                )
