"""Records of older code: carried over whole, with what belongs to them, or not touched at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tiny import write_folder

from capslib import study
from capslib.carry import carry_over, configuration
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.records import SCHEMA, comparable, file_name, read, run_key
from capslib.runs import RunConfig

TODAY, OLD = "today", "older"
PLAIN = RunConfig("folder:tones", "fold1", "caps")


@pytest.fixture(autouse=True)
def tones(data_folder, monkeypatch):
    """A data folder with one corpus, and a code version that each model has."""
    write_folder(data_folder / "tones", clips_a_class=1)
    monkeypatch.setattr(study, "current_code", lambda model: f"{TODAY} {model}")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of records, their weights and looks."""
    return tmp_path / "full"


def train(config: RunConfig) -> dict:
    """A record in no time, decided by its configuration."""
    return {
        "config": config.described(),
        "data": {"fingerprint": "data", "clips": {"test": 3}},
        "test": {"accuracy": (config.seed + 1) / 10 + config.epochs / 1000},
        "predictions": [config.seed, 1],
        "provenance": {"seconds": 1.0, "date": "2026-02-02"},
    }


def old(folder: Path, config: RunConfig, code: str = OLD, seconds: float = 10.0, **changes: object) -> Path:
    """A record of older code with weights and a look."""
    made = json.loads(json.dumps(train(config))) | changes
    key = run_key(made["config"], "data", code)
    made |= {"schema": SCHEMA, "key": key, "code": code, "provenance": {"seconds": seconds, "date": "2026-01-01"}}
    path = folder / "records" / file_name(made["config"], key)
    for file, text in (
        (path, json.dumps(made)),
        (folder / "weights" / f"{key}.safetensors", f"weights {key}"),
        (folder / "insight" / f"couplings-{key}.json", f"look {key}"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def made_of(seen: list[RunConfig]):
    """``train`` that notes what it made."""

    def noting(config: RunConfig) -> dict:
        seen.append(config)
        return train(config)

    return noting


def test_equal_runs_get_today_s_key_with_a_note_and_all_that_belongs_to_them(folder):
    seen = []
    configs = [dataclasses.replace(PLAIN, seed=seed) for seed in range(3)]
    before = [read(old(folder, config, seconds=10.0 - config.seed)) for config in configs]
    assert carry_over(folder, made_of(seen)) == (3, 1)
    assert seen == [configs[2]]  # the quickest
    expected = set()
    for config, was in zip(configs, before, strict=True):
        key = run_key(was["config"], "data", f"{TODAY} caps")
        names = {
            f"records/{file_name(was['config'], key)}": None,
            f"weights/{key}.safetensors": f"weights {was['key']}",
            f"insight/couplings-{key}.json": f"look {was['key']}",
        }
        expected |= names.keys()
        for name, text in names.items():
            assert text is None or (folder / name).read_text() == text
        record = read(folder / "records" / file_name(was["config"], key))
        assert (record["key"], record["code"]) == (key, f"{TODAY} caps")
        note = "made by code older, carried over after 1 runs came out the same to the bit"
        assert record["provenance"] == was["provenance"] | {"carried": [note]}
        kept = {name for name in comparable(was) if name not in ("key", "code")}
        assert {name: record[name] for name in kept} == {name: was[name] for name in kept}
        assert record["test"]["accuracy"] == train(config)["test"]["accuracy"]
    assert contents(folder).keys() == expected  # and nothing of the old ones


def test_carried_records_are_found_by_their_run(folder):
    old(folder, PLAIN)
    carry_over(folder, train)
    run = study.Run(PLAIN, "data", study.current_code("caps"), "caps")
    assert study.Store((folder / "records",)).get(run.key)["predictions"] == [0, 1]


def test_carried_twice_has_both_notes_and_today_s_are_left_alone(folder, monkeypatch):
    old(folder, PLAIN)
    carry_over(folder, train)
    before, seen = contents(folder), []
    assert carry_over(folder, made_of(seen)) == (0, 0)
    assert contents(folder) == before and not seen
    monkeypatch.setattr(study, "current_code", lambda model: "tomorrow")
    assert carry_over(folder, train) == (1, 1)
    (record,) = map(read, (folder / "records").iterdir())
    assert [note.split(",")[0] for note in record["provenance"]["carried"]] == [
        "made by code older",
        "made by code today caps",
    ]


def test_one_run_of_every_system_is_made_anew(folder):
    systems = [
        PLAIN,
        dataclasses.replace(PLAIN, model="lstm"),
        dataclasses.replace(PLAIN, options=(("num_iterations", 1),)),
        dataclasses.replace(PLAIN, perturb=("gain", (0.0, 6.0))),
        dataclasses.replace(PLAIN, features=FeatureConfig("spectrogram", (("num_bins", 64),))),
        dataclasses.replace(PLAIN, source=dataclasses.replace(PLAIN, corpus="emodb:emotion4")),
    ]
    for system in systems:
        for more in ({}, {"seed": 1}, {"split": "fold2"}, {"epochs": 5, "batch_size": 8}):
            old(folder, dataclasses.replace(system, **more), seconds=1.0 if more else 0.5)
    seen = []
    assert carry_over(folder, made_of(seen)) == (24, 6)
    assert sorted(seen, key=repr) == sorted(systems, key=repr)


def test_runs_of_two_older_codes_are_both_compared(folder):
    old(folder, PLAIN, code="first")
    old(folder, dataclasses.replace(PLAIN, seed=1), code="second")
    assert carry_over(folder, train) == (2, 2)


@pytest.mark.parametrize(
    "changes, differing",
    [
        ({"test": {"accuracy": 0.5}}, "test"),
        ({"predictions": [0, 0], "data": {"fingerprint": "data", "clips": {"test": 4}}}, "data, predictions"),
        ({"parameters": 3}, "parameters"),  # there before and gone today
    ],
)
def test_a_run_that_differs_is_named_and_no_file_is_touched(changes, differing, folder):
    old(folder, dataclasses.replace(PLAIN, model="att"))  # which comes first, and is equal
    path = old(folder, PLAIN, seconds=1.0, **changes)
    old(folder, dataclasses.replace(PLAIN, seed=1))
    before = contents(folder)
    with pytest.raises(CapslibError) as caught:
        carry_over(folder, train)
    assert str(caught.value).startswith(f"{path.name} made anew differs in {differing}: ")
    assert "the runs have to be made again" in str(caught.value)
    assert contents(folder) == before


def test_a_result_that_is_new_counts_as_a_difference(folder):
    old(folder, PLAIN)
    with pytest.raises(CapslibError, match="made anew differs in label_sets"):
        carry_over(folder, lambda config: train(config) | {"label_sets": ["a+b"]})


def test_records_of_another_machine_are_compared_through_those_of_this_one(folder, tmp_path):
    """Processors differ in last digits: the same run by the older code, made here, stands in; where it differs too, none."""
    path = old(folder, PLAIN, test={"accuracy": 0.1299999})
    here = old(tmp_path / "here", PLAIN)
    assert here.name == path.name
    before = contents(folder)
    with pytest.raises(CapslibError, match="made anew differs in test"):
        carry_over(folder, lambda config: train(config) | {"test": {"accuracy": 0.3}}, here.parent)
    assert contents(folder) == before
    assert carry_over(folder, train, here.parent) == (1, 1)
    (record,) = map(read, (folder / "records").iterdir())
    assert record["test"] == {"accuracy": 0.1299999}  # its own numbers stay


def test_a_run_that_fails_touches_no_file(folder):
    old(folder, PLAIN)
    before = contents(folder)

    def failing(config):
        raise CapslibError("the loss is not a number in epoch 1")

    with pytest.raises(CapslibError, match="not a number"):
        carry_over(folder, failing)
    assert contents(folder) == before


def test_systems_whose_corpora_are_not_here_are_told(folder):
    old(folder, PLAIN)
    old(folder, dataclasses.replace(PLAIN, corpus="emodb:emotion4", model="att"))
    before, seen = contents(folder), []
    with pytest.raises(CapslibError, match=r"records of corpora that are not here only: .*set CAPSLIB_DATA"):
        carry_over(folder, made_of(seen))
    assert contents(folder) == before and not seen


def test_records_of_corpora_elsewhere_go_with_those_of_the_same_system_here(folder):
    old(folder, PLAIN)
    old(folder, dataclasses.replace(PLAIN, corpus="emodb:emotion4"), seconds=0.1)
    seen = []
    assert carry_over(folder, made_of(seen)) == (2, 1) and seen == [PLAIN]


def test_an_unreadable_record_is_named_and_no_file_is_touched(folder):
    old(folder, PLAIN)
    (folder / "records" / "broken.json").write_text("{")
    before = contents(folder)
    with pytest.raises(CapslibError, match=r"broken\.json is not a readable record"):
        carry_over(folder, train)
    assert contents(folder) == before


def test_a_folder_without_records_has_nothing_to_carry(folder):
    assert carry_over(folder, train) == (0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": (("channels", (8, 8)), ("dropout", 0.1)), "max_train_clips": 5},
        {
            "features": FeatureConfig("spectrogram", (("num_bins", 64),)),
            "segment_frames": 20,
            "order": "sorted_batches",
        },
        {"perturb": ("speed", (0.7, 1.0, 1.3)), "schedule": "loss_decay", "epochs": 0},
        {"source": dataclasses.replace(PLAIN, corpus="emodb:emotion4", options=(("capsule_features", 4),))},
    ],
)
def test_a_configuration_comes_back_from_its_record(changes):
    config = dataclasses.replace(PLAIN, **changes)
    assert configuration(json.loads(json.dumps(config.described()))) == config
