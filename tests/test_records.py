"""Records: found by what decided the run, written whole or not at all, and never taken for what they are not."""

from __future__ import annotations

import errno
import json
import os

import pytest

from capslib import paths, records
from capslib.errors import CapslibError
from capslib.records import SCHEMA, Store, file_name, run_key

# --- Keys and names

CONFIG = {"corpus": "fsdd:digit", "split": "theo", "model": "caps", "options": [["num_iterations", 2]], "seed": 0}


def test_key_follows_everything_that_decides():
    key = run_key(CONFIG, "data", "code")
    others = [
        run_key(CONFIG | {"model": "lstm"}, "data", "code"),
        run_key(CONFIG | {"options": []}, "data", "code"),
        run_key(CONFIG | {"split": "lucas"}, "data", "code"),
        run_key(CONFIG | {"seed": 1}, "data", "code"),
        run_key(CONFIG | {"corpus": "fsdd6:digit"}, "data", "code"),
        run_key(CONFIG, "other", "code"),
        run_key(CONFIG, "data", "other"),
    ]
    assert len({key, *others}) == 8


def test_key_follows_nothing_else(monkeypatch):
    key = run_key(CONFIG, "data", "code")
    monkeypatch.setenv("CAPSLIB_DATA", "elsewhere")
    assert run_key(dict(reversed(CONFIG.items())), "data", "code") == key
    assert run_key(json.loads(json.dumps(CONFIG)), "data", "code") == key


def test_key_of_a_version_is_not_that_of_another(monkeypatch):
    key = run_key(CONFIG, "data", "code")
    monkeypatch.setattr(records, "SCHEMA", SCHEMA + 1)
    assert run_key(CONFIG, "data", "code") != key


def test_keys_are_the_same_on_every_machine():
    assert run_key(CONFIG, "data", "code") == "9f41be5f23e4d410"


def test_file_names_are_readable_and_portable():
    assert file_name(CONFIG, "0123abcd") == "fsdd-digit_caps_theo_s0_0123abcd.json"
    odd = file_name(CONFIG | {"corpus": "folder:Vögel/2", "split": "a b:c"}, "0123abcd")
    assert odd.isascii() and not set(odd) & set('/\\:*?"<>| ')


# --- The store


def record(seed: int = 0, data: str = "data", date: str = "2026-01-01", **more) -> dict:
    config = CONFIG | {"seed": seed}
    key = run_key(config, data, "code")
    return {"schema": SCHEMA, "key": key, "config": config, "provenance": {"date": date, "seconds": 1.5}, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


def test_what_is_put_is_found_again(folder):
    store, made = Store((folder,)), record(accuracy=0.5)
    file = store.put(made)
    assert file.name == file_name(made["config"], made["key"])
    assert store.get(made["key"]) == made and len(store) == 1
    again = Store((folder,))
    assert again.get(made["key"]) == made and again.unreadable == []
    assert again.get("something else") is None


def test_a_record_is_the_same_text_every_time(folder):
    file = Store((folder,)).put(record())
    text = file.read_bytes()
    Store((folder,)).put(dict(reversed(record().items())))
    assert file.read_bytes() == text and text.endswith(b"\n")


def test_folders_that_are_not_there_are_empty(tmp_path):
    store = Store((tmp_path / "not", tmp_path / "yet"))
    assert len(store) == 0
    assert store.put(record()).parent == tmp_path / "yet"


def test_the_first_folder_wins_and_the_last_is_written(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    Store((first,)).put(record(accuracy=0.1))
    Store((second,)).put(record(accuracy=0.2))
    both = Store((first, second))
    assert both.get(record()["key"])["accuracy"] == 0.1 and len(both) == 1
    assert both.put(record(seed=1)).parent == second
    assert len(list(first.iterdir())) == 1


BROKEN = {
    "empty": "",
    "half": '{"schema": 1, "key": "01',
    "not json": "a record",
    "a list": "[]",
    "no schema": '{"key": "0123"}',
    "older": json.dumps({"schema": SCHEMA - 1, "key": "0123"}),
    "newer": json.dumps({"schema": SCHEMA + 1, "key": "0123"}),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_files_that_are_no_records_are_named_and_the_others_read(folder, text):
    whole = Store((folder,)).put(record())
    (folder / "broken.json").write_text(text, encoding="utf-8")
    store = Store((folder,))
    assert len(store) == 1 and store.get(record()["key"])
    (sentence,) = store.unreadable
    assert "broken.json" in sentence and str(folder.parent) not in sentence and "\n" not in sentence
    assert whole.name not in sentence
    with pytest.raises(CapslibError, match=r"broken\.json"):
        records.read(folder / "broken.json")


def test_a_record_of_another_version_says_so(folder):
    (folder / "old.json").write_text(BROKEN["older"])
    with pytest.raises(
        CapslibError, match=rf"record of version {SCHEMA - 1}, this capslib reads version {SCHEMA}: .*again"
    ):
        records.read(folder / "old.json")


def test_bytes_that_are_no_text_are_named(folder):
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00\x81")
    assert "bytes.json is not a readable record" in Store((folder,)).unreadable[0]


def test_a_record_without_its_key_is_named(folder):
    (folder / "keyless.json").write_text(json.dumps({"schema": SCHEMA}))
    assert "keyless.json" in Store((folder,)).unreadable[0]


def test_a_broken_record_is_written_over(folder):
    file = Store((folder,)).put(record())
    file.write_text(file.read_text()[:40])
    store = Store((folder,))
    assert store.get(record()["key"]) is None and len(store.unreadable) == 1
    store.put(record())
    assert Store((folder,)).unreadable == []


def test_other_files_are_left_alone(folder):
    (folder / "notes.txt").write_text("hello")
    store = Store((folder,))
    assert len(store) == 0 and store.unreadable == []


def test_what_a_killed_process_left_half_written_is_not_complained_about(folder):
    (folder / ".fsdd-digit_caps_theo_s0_0123-x7.json").write_text('{"schema": 1, "k')
    assert Store((folder,)).unreadable == []


def test_writing_is_all_or_nothing(folder, monkeypatch):
    store = Store((folder,))
    file = store.put(record(accuracy=0.1))
    before = file.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(paths.os, "replace", fail)
    with pytest.raises(CapslibError, match=rf"cannot write {file.name}: No space left on device; free some space"):
        store.put(record(accuracy=0.2))
    assert file.read_bytes() == before
    assert list(folder.iterdir()) == [file], "a temporary file is left"


def test_a_full_disk_is_told(folder, monkeypatch):
    def full(self, *_, **__):
        self.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(paths.Path, "write_text", full)
    with pytest.raises(CapslibError, match="No space left on device"):
        Store((folder,)).put(record())
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "records").write_text("a file is in the way")
    with pytest.raises(CapslibError, match="cannot write"):
        Store((tmp_path / "records" / "deeper",)).put(record())


def test_a_full_disk_is_told_even_when_the_data_folder_is_not_there(folder, monkeypatch):
    monkeypatch.setenv("CAPSLIB_DATA", str(folder / "nowhere"))
    monkeypatch.setattr(paths.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(CapslibError, match="disk full"):
        Store((folder,)).put(record())


def test_what_is_put_cannot_be_read_if_writing_failed(folder, monkeypatch):
    store = Store((folder,))
    with monkeypatch.context() as patch:
        patch.setattr(paths.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
        with pytest.raises(CapslibError):
            store.put(record())
    assert store.get(record()["key"]) is None


def test_older_records_of_the_same_configuration_are_found(folder):
    store = Store((folder,))
    for data, date in (("a", "2026-01-05"), ("b", "2026-03-01"), ("c", "2026-02-01")):
        store.put(record(data=data, date=date))
    store.put(record(seed=1, data="b", date="2026-04-01"))
    assert store.older(CONFIG)["provenance"]["date"] == "2026-03-01"
    assert store.older(dict(reversed(CONFIG.items())))["key"] == record(data="b")["key"]
    assert store.older(CONFIG | {"seed": 2}) is None


def test_records_are_compared_without_provenance():
    one, other = record(accuracy=0.5), record(accuracy=0.5, date="2027-07-07")
    assert records.comparable(one) == records.comparable(other)
    assert records.comparable(one) != records.comparable(record(accuracy=0.51))
    assert "config" in records.comparable(one)
