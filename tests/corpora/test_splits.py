"""Nothing that a result depends on straddles a split: for every corpus, every task, every fold."""

import re
import warnings

import pandas as pd
import pytest
import trees

from capslib import corpora
from capslib.corpora import splits
from capslib.corpora.splits import Split
from capslib.errors import CapslibError

TASKS = [  # test_mixtures.py proves more of mixtures
    f"{name}:{task}" for name, source in corpora.sources().items() if not source.made_from for task in source.tasks
]
EMBEDDED = [key for key in TASKS if corpora.parse(key)[0].make]
REAL = [key for key in TASKS if key not in EMBEDDED]


def prove_separation(corpus, classes_everywhere=True):
    """What the paper's reader is promised, checked from the outside: with no help from ``splits.check``."""
    table, tested, validated = corpus.table, [], []
    assert table.index.is_unique and corpus.splits
    assert len({split.name for split in corpus.splits}) == len(corpus.splits)
    for split in corpus.splits:
        where = f"{corpus.key} {split.name}"
        train, validation, test = (table.loc[list(part)] for part in (split.train, split.validation, split.test))
        assert len(train) and len(validation) and len(test), where
        assert sorted([*split.train, *split.validation, *split.test]) == sorted(table.index), where
        for one, other, may_share in (
            (train, test, False),
            (validation, test, False),
            (train, validation, split.validation_shares_groups),
        ):
            assert not set(one.index) & set(other.index), where
            assert may_share or not set(one["group"]) & set(other["group"]), where
            assert not set(one["sha256"]) & set(other["sha256"]), where
        assert tuple(sorted(train["label"].unique())) == corpus.classes, where
        for part in (validation, test):
            assert set(part["label"]) <= set(corpus.classes), where
            assert not classes_everywhere or set(part["label"]) == set(corpus.classes), where
        tested += split.test
        validated += split.validation
    if corpus.name == "iemocap" or "_p2" in corpus.task:  # of two speakers one tests, the other validates
        tested += validated
    assert sorted(tested) == sorted(table.index)  # every clip is tested exactly once


@pytest.mark.parametrize("key", EMBEDDED)
def test_embedded_corpora(key):
    prove_separation(corpora.load(key))


@pytest.mark.parametrize("key", REAL)
def test_archives_in_miniature(key, data_folder):
    folder = corpora.parse(key)[0].folder
    trees.ARCHIVES[folder](data_folder / folder)
    corpus = corpora.load(key)
    prove_separation(corpus)
    corpora._load.cache_clear()
    again = corpora.load(key)
    assert again is not corpus and again.splits == corpus.splits  # the same whenever they are made


@pytest.mark.parametrize("key", REAL)
def test_real_recordings(key, ordinary_cache):
    if corpora.find(key) is None:
        pytest.skip(f"no recordings of {key} here")
    prove_separation(corpora.load(key), classes_everywhere=not key.startswith("ased:speaker"))


@pytest.mark.parametrize("build", [trees.own_folders, trees.own_csv])
def test_own_recordings(build, tmp_path):
    prove_separation(corpora.folder(build(tmp_path / "birds")))


def test_choosing_folds_says_nothing_about_rare_classes(data_folder):
    """No warning of the library that cuts the folds: its text would carry a path of this machine into notebooks."""
    trees.ased(data_folder / "ased", speakers=[1, 2, 3, 4, 6, 8, 10, 12, 14, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpora.load("ased")


# --- what is refused -----------------------------------------------------------------------------------------------


def copy(folder, source, target):
    (folder / target).write_bytes((folder / source).read_bytes())


def test_one_recording_under_two_names_in_two_parts_names_both(data_folder):
    folder = trees.fsdd(data_folder / "fsdd")
    copy(folder, "recordings/3_theo_1.wav", "recordings/3_nicolas_1.wav")
    with pytest.raises(CapslibError) as error:
        corpora.load("fsdd")
    message = str(error.value)
    assert "'recordings/3_theo_1'" in message and "'recordings/3_nicolas_1'" in message
    assert "are the same recording" in message and "split 'nicolas'" in message and "\n" not in message


def test_one_recording_twice_among_train_and_validation_is_refused_too(data_folder):
    folder = trees.fsdd(data_folder / "fsdd")
    copy(folder, "recordings/3_theo_1.wav", "recordings/3_theo_0.wav")
    with pytest.raises(
        CapslibError, match=r"3_theo_[01]' \((train|validation)\) and .*3_theo_[01]' \((train|validation)\)"
    ):
        corpora.load("fsdd")


def test_the_same_samples_in_another_container_are_the_same_recording(data_folder):
    folder = trees.ravdess(data_folder / "ravdess")
    one, other = "Actor_01/03-01-01-01-02-01-01", "Actor_02/03-01-01-01-01-01-02"
    (folder / f"{other}.wav").unlink()
    trees.write(folder / f"{other}.flac", trees.noise(one.split("/")[1], 48_000), 48_000)
    with pytest.raises(CapslibError, match="are the same recording"):
        corpora.load("ravdess")


def test_one_recording_twice_within_one_group_is_let_be(data_folder):
    """As in the published RAVDESS, where actor 7 has one clip under two names."""
    folder = trees.ravdess(data_folder / "ravdess")
    copy(folder, "Actor_07/03-01-03-01-02-01-07.wav", "Actor_07/03-01-03-01-02-02-07.wav")
    corpus = corpora.load("ravdess")
    assert corpus.table["sha256"].duplicated().sum() == 1
    prove_separation(corpus)


def own(data_folder, rows):
    lines = ["path,label,group"]
    for number, (label, group) in enumerate(rows):
        trees.write(data_folder / "birds" / f"{number}.wav", rate=16_000)
        lines.append(f"{number}.wav,{label},{group}")
    (data_folder / "birds" / "labels.csv").write_text("\n".join(lines))


def test_a_class_with_one_group_is_named(data_folder):
    own(data_folder, [(bird, garden) for bird in ("robin", "wren") for garden in "abcd"] + [("owl", "a"), ("owl", "a")])
    with pytest.raises(CapslibError, match=r"^corpus 'folder:birds': class 'owl' has 1 group\(s\)"):
        corpora.load("folder:birds")


def test_a_class_of_one_speaker_in_an_archive_is_named(data_folder):
    folder = trees.emodb(data_folder / "emodb", letters="WNFT")
    for clip in folder.glob("wav/*W*.wav"):
        if not clip.name.startswith("13"):
            clip.unlink()
    with pytest.raises(
        CapslibError, match=r"corpus 'emodb', split 'fold3': class 'angry' has no training clip .* 1 group.* \(13\)"
    ):
        corpora.load("emodb")


def test_own_recordings_with_one_class(data_folder):
    own(data_folder, [("robin", garden) for garden in "abcd"])
    with pytest.raises(CapslibError, match="'folder:birds': all clips are of class 'robin': a classifier needs two"):
        corpora.load("folder:birds")


TABLE = pd.DataFrame(
    {
        "label": ["yes", "no"] * 4,
        "group": ["ann", "ann", "bob", "bob", "cy", "cy", "dee", "dee"],
        "sha256": list("abcdefgh"),
    },
    index=[f"clip{number}" for number in range(8)],
)
IDS = tuple(TABLE.index)
GOOD = Split("one", IDS[:4], IDS[4:6], IDS[6:])


@pytest.mark.parametrize(
    ("split", "part"),
    [
        (Split("one", IDS[:4], (), IDS[6:]), "split 'one': no clips for validation"),
        (Split("one", (), (), IDS[6:]), "no clips for train and validation"),
        (Split("one", IDS[:4], IDS[4:6], IDS[5:]), "clip 'clip5' lies in two parts"),
        (Split("one", IDS[:3], IDS[4:6], (IDS[3], *IDS[6:])), "group 'bob' lies in two parts"),
        (Split("one", IDS[:3], (IDS[3], *IDS[4:6]), IDS[6:]), "group 'bob' lies in two parts"),
        (Split("one", IDS[0:4:2], IDS[4:6], IDS[6:]), "class 'no' has no training clip left"),
    ],
)
def test_a_protocol_that_leaks_is_refused(split, part):
    splits.check(TABLE, [GOOD], "toy")
    with pytest.raises(CapslibError, match=rf"^corpus 'toy'.*{re.escape(part)}"):
        splits.check(TABLE, [GOOD, split], "toy")


def test_validation_may_share_speakers_only_where_the_protocol_says_so():
    shared = Split("one", IDS[:3], (IDS[3], *IDS[4:6]), IDS[6:], validation_shares_groups=True)
    splits.check(TABLE, [shared], "toy")
    leaking = Split("one", IDS[:4], IDS[4:6], (IDS[3], *IDS[6:]), validation_shares_groups=True)
    with pytest.raises(CapslibError, match="lies in two parts"):
        splits.check(TABLE, [leaking], "toy")
