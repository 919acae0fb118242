"""A tiny corpus that can be learnt, and one run on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_folder

from capslib.training import RunConfig, train

CONFIG = RunConfig("folder:tones", "fold1", "caps", epochs=3, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module", autouse=True)
def tones(tmp_path_factory) -> Path:
    """The data folder with the tiny corpus "folder:tones"."""
    base = tmp_path_factory.mktemp("training")
    write_folder(base / "data" / "tones")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSLIB_CACHE", str(base / "cache"))
        patch.setenv("CAPSLIB_DATA", str(base / "data"))
        yield base / "data"


@pytest.fixture(scope="session")
def config() -> RunConfig:
    """Three epochs of P0's capsule network on the tiny corpus."""
    return CONFIG


@pytest.fixture(scope="module")
def trained(tones, tmp_path_factory) -> tuple[dict, Path]:
    """The record of ``config`` and its weights."""
    weights = tmp_path_factory.mktemp("weights") / "caps.safetensors"
    return train(CONFIG, weights), weights
