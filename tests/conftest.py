"""What every test shares: a cache that is thrown away, and ways to have other recordings at hand."""

import os

import pytest

from capslib import corpora

_ORDINARY_CACHE = os.environ.get("CAPSLIB_CACHE")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Synthetic corpora are made once a session, into a cache that no other session sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fresh_loads():
    """Corpora are loaded anew in this test, because it changes where they are looked for."""
    corpora._load.cache_clear()
    yield
    corpora._load.cache_clear()


@pytest.fixture
def data_folder(tmp_path, monkeypatch, fresh_loads):
    """An empty data folder that belongs to this test."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("CAPSLIB_DATA", str(folder))
    return folder


@pytest.fixture
def ordinary_cache(monkeypatch, fresh_loads):
    """The cache of everyday work: real recordings are decoded once, not once a test session."""
    if _ORDINARY_CACHE is None:
        monkeypatch.delenv("CAPSLIB_CACHE")
    else:
        monkeypatch.setenv("CAPSLIB_CACHE", _ORDINARY_CACHE)
