"""Records of older code: migrated whole, with what belongs to them, or not touched at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tiny import write_folder

from capslib import migrate, paths, probes, study
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.records import SCHEMA, comparable, file_name, read, run_key
from capslib.training import RunConfig

TODAY, OLD = "today", "older"
PLAIN = RunConfig("folder:tones", "fold1", "caps")


@pytest.fixture(autouse=True)
def tones(data_folder, monkeypatch):
    """A data folder with one corpus, and a code version for each model and probe."""
    write_folder(data_folder / "tones", clips_a_class=1)
    monkeypatch.setattr(study, "code_of", lambda config: f"{TODAY} {config['model']}")
    monkeypatch.setattr(probes, "code_of", lambda config, name: f"{TODAY} {name}")


def short_result(record: dict | None = None, outputs: dict | None = None) -> dict:
    return {
        "code": OLD,
        "record": record or {"test": 1},
        "outputs": outputs or {"couplings": {"entropy": 1}},
        "versions": {"couplings": OLD},
    }


@pytest.fixture
def compared(monkeypatch) -> list[list]:
    """Both codes make short runs in no time, and equally; the list of those that were made."""
    seen: list[list] = []

    def there(checkout, systems):
        seen.extend(systems)
        return [short_result() for _ in systems]

    monkeypatch.setattr(migrate, "short_runs_of", there)
    monkeypatch.setattr(migrate, "short_runs", lambda systems: [short_result() for _ in systems])
    return seen


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of records, their weights and outputs of probes."""
    return tmp_path / "full"


def described(config: RunConfig) -> dict:
    return json.loads(json.dumps(config.described()))


def old(folder: Path, config: RunConfig, code: str = OLD, seconds: float = 10.0, **changes: object) -> Path:
    """A record of older code with weights and the output of a probe."""
    record = {
        "config": described(config),
        "data": {"fingerprint": "data", "clips": {"test": 3}},
        "test": {"accuracy": (config.seed + 1) / 10 + config.epochs / 1000},
        "predictions": [config.seed, 1],
    } | changes
    key = run_key(record["config"], "data", code)
    record |= {"schema": SCHEMA, "key": key, "code": code, "provenance": {"seconds": seconds, "date": "2026-01-01"}}
    path = folder / "records" / file_name(record["config"], key)
    for file, text in (
        (path, json.dumps(record)),
        (folder / "weights" / f"{key}.safetensors", f"weights {key}"),
        (folder / "probes" / f"couplings-{key}.json", json.dumps({"code": code, "of": key})),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_equal_runs_get_today_s_key_with_a_note_and_all_that_belongs_to_them(folder, compared):
    configs = [dataclasses.replace(PLAIN, seed=seed) for seed in range(3)]
    before = [read(old(folder, config, seconds=10.0 - config.seed)) for config in configs]
    assert migrate.migrate(folder, folder) == (6, 1, 0)  # three records, three outputs
    assert compared == [[before[2]["config"], ["couplings"]]]  # the quickest
    names = set()
    for was in before:
        key = run_key(was["config"], "data", f"{TODAY} caps")
        record_file, output_file = f"records/{file_name(was['config'], key)}", f"probes/couplings-{key}.json"
        names |= {record_file, output_file, f"weights/{key}.safetensors"}
        assert (folder / f"weights/{key}.safetensors").read_text() == f"weights {was['key']}"
        assert json.loads((folder / output_file).read_text()) == {"code": f"{TODAY} couplings", "of": was["key"]}
        record = read(folder / record_file)
        assert (record["key"], record["code"]) == (key, f"{TODAY} caps")
        note = "made by code older; short runs of 1 systems by both codes were the same to the bit"
        assert record["provenance"] == was["provenance"] | {"carried": [note]}
        assert {n: v for n, v in comparable(record).items() if n not in ("key", "code")} == {
            n: v for n, v in comparable(was).items() if n not in ("key", "code")
        }
    assert contents(folder).keys() == names  # and nothing of the old ones
    assert migrate.migrate(folder, folder) == (0, 0, 0) and contents(folder).keys() == names


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
    assert migrate.migrate(folder, folder) == (48, 6, 0)
    assert sorted((config for config, _ in compared), key=str) == sorted(map(described, systems), key=str)


def test_a_probe_is_compared_on_a_corpus_that_it_was_measured_on(folder, compared):
    """A faster run of the system on another corpus does not speak for it."""
    measured = read(old(folder, PLAIN, seconds=10.0))["key"]
    other = read(old(folder, dataclasses.replace(PLAIN, seed=1), seconds=1.0))["key"]
    (folder / "probes" / f"couplings-{other}.json").unlink()
    migrate.migrate(folder, folder)
    assert [(config["seed"], names) for config, names in compared] == [(0, ["couplings"])]
    assert measured not in "".join(contents(folder))


def test_an_output_of_an_older_probe_is_migrated_where_its_run_is_of_today(folder, compared, monkeypatch):
    path = old(folder, PLAIN, code=f"{TODAY} caps")
    key = read(path)["key"]
    output = folder / "probes" / f"couplings-{key}.json"
    output.write_text(json.dumps({"code": OLD}))
    today = short_result() | {"code": f"{TODAY} caps"}
    monkeypatch.setattr(migrate, "short_runs_of", lambda checkout, systems: [today for _ in systems])
    assert migrate.migrate(folder, folder) == (1, 1, 0)
    assert json.loads(output.read_text()) == {"code": f"{TODAY} couplings"} and path.is_file()


def test_records_of_a_third_code_are_left_as_they_are(folder, compared):
    old(folder, PLAIN)
    third = old(folder, dataclasses.replace(PLAIN, seed=1), code="third")
    text = third.read_text()
    assert migrate.migrate(folder, folder) == (2, 1, 2) and third.read_text() == text


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (short_result({"test": 2}), "test"),
        (short_result({"test": 1, "sets": []}), "sets"),
        (short_result(outputs={"couplings": {"entropy": 2}}), "couplings"),
    ],
)
def test_what_differs_is_named_and_no_file_is_touched(folder, compared, monkeypatch, other, differing):
    old(folder, PLAIN)
    before = contents(folder)
    monkeypatch.setattr(migrate, "short_runs", lambda systems: [other for _ in systems])
    with pytest.raises(
        CapslibError, match=rf"caps on folder:tones, split fold1, seed 0 differs in {differing}: .* again"
    ):
        migrate.migrate(folder, folder)
    assert contents(folder) == before


def test_a_run_of_today_s_code_is_not_replaced(folder, compared):
    old(folder, PLAIN)
    today = old(folder, PLAIN, code=f"{TODAY} caps", predictions=[7])
    text = today.read_text()
    migrate.migrate(folder, folder)
    assert today.read_text() == text


def test_systems_whose_corpora_are_not_available_are_left_and_counted(folder, compared):
    old(folder, PLAIN)
    old(folder, dataclasses.replace(PLAIN, corpus="emodb:emotion4", model="att"))
    old(folder, dataclasses.replace(PLAIN, corpus="emodb:emotion4"), seconds=0.1)  # of a system that is compared here
    assert migrate.migrate(folder, folder) == (4, 1, 2) and len(compared) == 1


def test_an_unreadable_record_is_named_and_no_file_is_touched(folder, compared):
    old(folder, PLAIN)
    (folder / "records" / "broken.json").write_text("{")
    before = contents(folder)
    with pytest.raises(CapslibError, match=r"broken\.json is not a readable record"):
        migrate.migrate(folder, folder)
    assert contents(folder) == before


def test_another_checkout_makes_the_same_short_run(data_folder, monkeypatch):
    write_folder(data_folder / "tones", clips_a_class=8)
    monkeypatch.setenv("CAPSLIB_WORKERS", "1")  # no workers of an earlier test, with another data folder
    (here,) = migrate.short_runs([[described(PLAIN), ["couplings"]]])
    (there,) = migrate.short_runs_of(paths.root(), [[described(PLAIN), ["couplings"]]])
    assert there["record"] == here["record"] and there["outputs"] == here["outputs"]
    assert [entry["epoch"] for entry in here["record"]["epochs"]] == [1] and here["outputs"]["couplings"]["entropy"]
    with pytest.raises(CapslibError, match="could not make the runs: see above; is it a checkout of capslib"):
        migrate.short_runs_of(paths.root(), [[described(PLAIN) | {"model": "cap"}, []]])


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
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-8},
    ],
)
def test_a_configuration_comes_back_from_its_record(changes):
    config = dataclasses.replace(PLAIN, **changes)
    assert migrate.configuration(json.loads(json.dumps(config.described()))) == config
