"""A data folder with a tiny corpus; nothing is accepted, and runs are made here, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_folder

from capslib import study


@pytest.fixture(scope="module", autouse=True)
def tones(tmp_path_factory):
    base = tmp_path_factory.mktemp("study")
    write_folder(base / "data" / "tones")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSLIB_CACHE", str(base / "cache"))
        patch.setenv("CAPSLIB_DATA", str(base / "data"))
        patch.setenv("CAPSLIB_WORKERS", "1")
        patch.delenv("CAPSLIB_CLUSTER", raising=False)
        patch.setattr(study.folders, "accepted", lambda: base / "accepted")
        yield base / "data"


@pytest.fixture
def reports(tmp_path, monkeypatch) -> Path:
    """Where this test's records go."""
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"
