"""Other libraries compute our features as far as definitions agree, and what is missing is listed."""

import pytest

from bench import features, machine, results, store
from bench.store import Store


@pytest.mark.parametrize("kind", features.KINDS)
@pytest.mark.parametrize("name", ["librosa", "torchaudio, batches"])
def test_libraries_agree_where_definitions_do(name, kind):
    assert features.agreement(name, kind, features.clips(2, 0.5))["lowest"] > 0.999


def test_measuring_lists_what_is_missing(tmp_path, monkeypatch, capsys):
    def speeds(kind, names, *_):
        return {
            way: {name: {"median": 0.5} for name in names} for way in ("one thread", "two threads", "two processes")
        }

    monkeypatch.setitem(features.PACKAGES, "nowhere", "no_such_package")
    monkeypatch.setattr(features, "speeds", speeds)
    monkeypatch.setattr(features, "agreement", lambda *_: {"median": 1.0, "lowest": 1.0, "frames": 3})
    features.measure(Store("features", repeats=1, folder=tmp_path), count=2, seconds=0.1)
    assert "nowhere: not installed" in capsys.readouterr().out
    measured = store.read(machine.kind(), tmp_path)["features"]
    table = results.features(measured).set_index("library")
    assert (table.loc["nowhere", "one thread"] == "not installed").all()
    assert (table.loc["librosa", "one thread"] == "4").all()
    assert list(dict.fromkeys(results.decoding(measured)["files"])) == ["wav", "flac", "ogg"]


def test_two_cores_are_never_slower_than_one():
    one, two = ({"capslib": {"median": a}, "librosa": {"median": b}} for a, b in ((1.0, 4.0), (0.5, 9.0)))
    entry = {"clips": 8, "missing": [], "speeds": {"one thread": one, "two processes": two}}
    entry["agreement"] = {name: {"median": 1.0, "lowest": 1.0, "frames": 3} for name in one}
    table = results.features({"MFCC-60": entry}).set_index("library")
    assert table.loc["librosa", "two cores"] == "8.00"  # 16 clips per second of ours over librosa's 2 on one thread
