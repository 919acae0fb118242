"""Protocols: which clips train, which choose, which test; and the proof that nothing straddles.

Every function here is deterministic and sees labels and groups only. A group (speaker, source recording)
lies whole in one part; where a protocol cannot have that for validation, the split says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from capslib.errors import CapslibError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Item ids of one fold.

    Attributes:
        name: of the fold, e.g. the test speaker.
        train, validation, test: item ids.
        validation_shares_groups: validation clips come from the training speakers, because too few remain.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    validation_shares_groups: bool = False


def leave_one_group_out(table: pd.DataFrame, group: str, validation: pd.Series) -> list[Split]:
    """One fold a group; ``validation`` (bool, by item) marks which of the other clips choose."""
    splits = []
    for name in sorted(table[group].unique()):
        test = table[group] == name
        splits.append(
            Split(
                str(name),
                tuple(table.index[~test & ~validation]),
                tuple(table.index[~test & validation]),
                tuple(table.index[test]),
                validation_shares_groups=True,
            )
        )
    return splits


def _cut(part: pd.DataFrame, group: str, stratify: str, at_most: int) -> list[np.ndarray]:
    """Positions of each fold: as many folds as asked for, fewer where a subset of an archive has too few groups or clips."""
    groups, clips = part[group].nunique(), int(part[stratify].value_counts().max())
    if min(groups, clips) < 2:
        raise CapslibError(
            f"{groups} {group}(s) with at most {clips} clip(s) a class cannot be split into training, validation and test: "
            "add recordings"
        )
    cut = StratifiedGroupKFold(n_splits=min(at_most, groups, clips))
    with warnings.catch_warnings():  # a rare class cannot be in every fold; `check` refuses what a result depends on
        warnings.simplefilter("ignore", UserWarning)
        return [test for _, test in cut.split(part, part[stratify], part[group])]


def grouped_folds(table: pd.DataFrame, group: str, stratify: str, num_folds: int = 5) -> pd.Series:
    """Number the folds 1..num_folds (fewer in a small subset) so that groups stay whole and the classes of ``stratify``
    are spread evenly."""
    folds = pd.Series(0, index=table.index)
    for number, test in enumerate(_cut(table, group, stratify, num_folds), start=1):
        folds.iloc[test] = number
    return folds


def hold_out_groups(table: pd.DataFrame, ids: Sequence[str], group: str, stratify: str) -> tuple[str, ...]:
    """Whole groups for validation: about a seventh of ``ids``; two groups of eight, one where there are fewer."""
    part = table.loc[list(ids)]
    num_groups = part[group].nunique()
    num_cuts = min(7, num_groups // 2) if num_groups >= 8 else num_groups
    chosen = next(test for test in _cut(part, group, stratify, num_cuts) if len(test))
    return tuple(part.index[chosen])


def by_fold(table: pd.DataFrame, group: str, stratify: str, fold: str = "fold") -> list[Split]:
    """One split a value of the column ``fold``; validation is held out by group from the other folds.

    Numbered folds are called "fold1"; others (a speaker, a sentence) bear the value's own name.
    """
    splits = []
    for number in sorted(table[fold].unique()):
        rest = table.index[table[fold] != number]
        if table.loc[rest, group].nunique() < 2:
            raise CapslibError(f"only one {group} is left for training when fold {number} is the test: add recordings")
        validation = hold_out_groups(table, rest, group, stratify)
        held = set(validation)
        splits.append(
            Split(
                number if isinstance(number, str) else f"fold{number}",
                tuple(i for i in rest if i not in held),
                validation,
                tuple(table.index[table[fold] == number]),
            )
        )
    return splits


def clip_folds(table: pd.DataFrame, label: str, num_folds: int = 5) -> pd.Series:
    """Folds by clip, for data without groups: results are for the same speakers and rooms, never for new ones."""
    folds = pd.Series(0, index=table.index)
    for number, (_, test) in enumerate(StratifiedKFold(n_splits=num_folds).split(table, table[label]), start=1):
        folds.iloc[test] = number
    return folds


def check(table: pd.DataFrame, splits: Sequence[Split], label: str, group: str, corpus: str) -> None:
    """Prove what a result depends on: no clip, no group and no identical recording on both sides.

    Args:
        table: with the columns ``label``, ``group`` and ``sha256`` (of the decoded samples).
    Raises:
        CapslibError: naming the corpus, the split and the clips.
    """
    for split in splits:
        where = f"corpus {corpus!r}, split {split.name!r}"
        parts = {part: list(getattr(split, part)) for part in PARTS}
        empty = [part for part, ids in parts.items() if not ids]
        if empty:
            raise CapslibError(f"{where}: no clips for {' and '.join(empty)}: add recordings or ask for fewer folds")
        missing = sorted(set(table[label]) - set(table.loc[parts["train"], label]))
        if missing:
            groups = table.loc[table[label] == missing[0], group].unique()
            raise CapslibError(
                f"{where}: class {missing[0]!r} has no training clip left, because all its clips come from {len(groups)} "
                f"{group}(s) ({', '.join(map(str, groups[:3]))}): add clips of that class from another {group}"
            )
        owner = pd.concat([pd.Series(part, index=ids) for part, ids in parts.items()])
        if owner.index.has_duplicates:
            clip = owner.index[owner.index.duplicated()][0]
            raise CapslibError(f"{where}: clip {clip!r} lies in two parts")
        rows = table.loc[owner.index].assign(part=owner.to_numpy())
        guarded = rows.replace({"part": {"validation": "train"}}) if split.validation_shares_groups else rows
        straddling = guarded.groupby(group)["part"].nunique()
        if (straddling > 1).any():
            raise CapslibError(f"{where}: {group} {straddling.index[straddling > 1][0]!r} lies in two parts")
        for _, same in rows[rows.duplicated("sha256", keep=False)].groupby("sha256"):
            if same["part"].nunique() > 1:
                first = same.iloc[0]
                other = same[same["part"] != first["part"]].iloc[0]
                raise CapslibError(
                    f"{where}: clips {first.name!r} ({first['part']}) and {other.name!r} ({other['part']}) are the same "
                    f"recording: remove one of them, or give both one {group}"
                )
