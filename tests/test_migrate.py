"""Records of older code: carried over whole, with what belongs to them, or not touched at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from capslib.carry import carry_over, configuration
from tiny import write_folder

from capslib import carry, paths, study
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.records import SCHEMA, comparable, file_name, read, run_key
from capslib.training import RunConfig

TODAY, OLD = "today", "older"
PLAIN = RunConfig("folder:tones", "fold1", "caps")


@pytest.fixture(autouse=True)
def tones(data_folder, monkeypatch):
    """A data folder with one corpus, and a code version that each model has."""
    write_folder(data_folder / "tones", clips_a_class=1)
    monkeypatch.setattr(study, "current_code", lambda *model: f"{TODAY} {model[0]}")


@pytest.fixture
def compared(monkeypatch) -> list[dict]:
    """Both codes make short runs in no time, and equally; the list of those that were made."""
    seen: list[dict] = []

    def there(checkout, described):
        seen.extend(described)
        return [{"code": OLD, "record": {"test": 1}} for _ in described]

    monkeypatch.setattr(carry, "made_there", there)
    monkeypatch.setattr(carry, "made_here", lambda described: [{"record": {"test": 1}} for _ in described])
    return seen


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
        (folder / "probes" / f"couplings-{key}.json", f"look {key}"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_equal_runs_get_today_s_key_with_a_note_and_all_that_belongs_to_them(folder, compared):
    configs = [dataclasses.replace(PLAIN, seed=seed) for seed in range(3)]
    before = [read(old(folder, config, seconds=10.0 - config.seed)) for config in configs]
    assert carry_over(folder, folder) == (3, 1, 0)
    assert compared == [before[2]["config"]]  # the quickest
    expected = set()
    for config, was in zip(configs, before, strict=True):
        key = run_key(was["config"], "data", f"{TODAY} caps")
        names = {
            f"records/{file_name(was['config'], key)}": None,
            f"weights/{key}.safetensors": f"weights {was['key']}",
            f"probes/couplings-{key}.json": f"look {was['key']}",
        }
        expected |= names.keys()
        for name, text in names.items():
            assert text is None or (folder / name).read_text() == text
        record = read(folder / "records" / file_name(was["config"], key))
        assert (record["key"], record["code"]) == (key, f"{TODAY} caps")
        note = "made by code older; short runs of 1 systems by both codes were the same to the bit"
        assert record["provenance"] == was["provenance"] | {"carried": [note]}
        kept = {name for name in comparable(was) if name not in ("key", "code")}
        assert {name: record[name] for name in kept} == {name: was[name] for name in kept}
        assert record["test"]["accuracy"] == train(config)["test"]["accuracy"]
    assert contents(folder).keys() == expected  # and nothing of the old ones


def test_carried_records_are_found_by_their_run(folder, compared):
    old(folder, PLAIN)
    carry_over(folder, folder)
    run = study.Run(PLAIN, "data", study.current_code("caps"), "caps")
    assert study.Store((folder / "records",)).get(run.key)["predictions"] == [0, 1]
    before = contents(folder)
    assert carry_over(folder, folder) == (0, 0, 0) and contents(folder) == before


def test_one_run_of_every_system_is_compared(folder, compared):
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
    assert carry_over(folder, folder) == (24, 6, 0)
    assert [configuration(config) for config in sorted(compared, key=str)] == sorted(
        systems, key=lambda c: str(described(c))
    )


def described(config: RunConfig) -> dict:
    return json.loads(json.dumps(config.described()))


def test_records_of_a_third_code_are_left_as_they_are(folder, compared):
    old(folder, PLAIN)
    third = old(folder, dataclasses.replace(PLAIN, seed=1), code="third")
    text = third.read_text()
    assert carry_over(folder, folder) == (1, 1, 1) and third.read_text() == text


def test_a_run_that_differs_is_named_and_no_file_is_touched(folder, compared, monkeypatch):
    old(folder, PLAIN)
    before = contents(folder)
    for other, differing in (({"test": 2}, "test"), ({"test": 1, "sets": []}, "sets"), ({}, "test")):
        monkeypatch.setattr(carry, "made_here", lambda described, other=other: [{"record": other} for _ in described])
        with pytest.raises(
            CapslibError, match=rf"caps on folder:tones, split fold1, seed 0 differs in {differing}: .* made again"
        ):
            carry_over(folder, folder)
        assert contents(folder) == before


def test_a_run_of_today_s_code_is_not_replaced(folder, compared):
    old(folder, PLAIN)
    today = old(folder, PLAIN, code=f"{TODAY} caps", predictions=[7])
    text = today.read_text()
    assert carry_over(folder, folder) == (0, 1, 1) and today.read_text() == text


def test_systems_whose_corpora_are_not_here_are_left_and_counted(folder, compared):
    old(folder, PLAIN)
    old(folder, dataclasses.replace(PLAIN, corpus="emodb:emotion4", model="att"))
    old(folder, dataclasses.replace(PLAIN, corpus="emodb:emotion4"), seconds=0.1)  # of a system that is compared here
    assert carry_over(folder, folder) == (2, 1, 1) and len(compared) == 1


def test_an_unreadable_record_is_named_and_no_file_is_touched(folder, compared):
    old(folder, PLAIN)
    (folder / "records" / "broken.json").write_text("{")
    before = contents(folder)
    with pytest.raises(CapslibError, match=r"broken\.json is not a readable record"):
        carry_over(folder, folder)
    assert contents(folder) == before


def test_another_checkout_makes_the_same_short_run(data_folder):
    write_folder(data_folder / "tones", clips_a_class=8)
    (here,) = carry.made_here([described(PLAIN)])
    assert carry.made_there(paths.root(), [described(PLAIN)])[0]["record"] == here["record"]
    assert [entry["epoch"] for entry in here["record"]["epochs"]] == [1]
    with pytest.raises(CapslibError, match="could not make the runs: see above; is it a checkout of capslib"):
        carry.made_there(paths.root(), [described(PLAIN) | {"model": "cap"}])


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
