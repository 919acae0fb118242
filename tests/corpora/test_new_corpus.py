"""A new corpus is one new file: in a copy of the package, it can be downloaded, loaded and put into a grid."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny

from capslib import paths

TONES = '''
"""Tones: three pitches, several clips of each."""

from capslib.corpora.layout import clips
from capslib.corpora.table import Archive, Budget, Source, Task

SOURCES = (
    Source(
        name="tones",
        read=lambda folder: clips(folder, r"(?P<pitch>[a-z]+)/(?P<take>\\d+)"),
        tasks={
            "pitch": Task(
                label="pitch",
                group="take",
                protocol="5 folds by take",
                interval_over="fold",
                role="P0 FSDD",
            )
        },
        citation="tones",
        licence="none",
        how_to_get="run `make data CORPORA=tones`",
        archive=Archive(file="tones.zip", url="http://localhost/tones.zip", site="this machine", top="tones-1.0"),
        budgets={"quick": Budget(epochs=2, seeds=3, max_splits=4)},
    ),
)
'''
USE = """
import json
from capslib import corpora, paths, study
from capslib.corpora import download

assert "tones:pitch" not in corpora.at_hand()
download.fetch("tones", paths.data())
corpus = corpora.load("tones")
grid = study.grid(corpora.at_hand(embedded=False), ["lstm"])
print(json.dumps({
    "known": sorted(corpora.sources()),
    "at hand": corpora.at_hand(embedded=False),
    "classes": corpus.classes,
    "clips": len(corpus.table),
    "runs": [[run.config.corpus, run.config.split, run.config.seed, run.config.epochs] for run in grid.runs],
    "role": grid.cards["tones:pitch"]["role"],
}))
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package with the module of the new corpus, and its archive where a download would be."""
    shutil.copytree(paths.root() / "capslib", tmp_path / "capslib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "capslib" / "corpora" / "tones.py").write_text(TONES)
    tiny.write_folder(tmp_path / "owners" / "tones-1.0")
    (tmp_path / "recordings" / "archives").mkdir(parents=True)
    shutil.make_archive(tmp_path / "recordings" / "archives" / "tones", "zip", tmp_path / "owners")
    return tmp_path


def test_a_new_corpus_is_one_new_file(checkout):
    places = {"PYTHONPATH": str(checkout), "CAPSLIB_DATA": str(checkout / "recordings")}
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, cwd=checkout, env=os.environ | places, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "tones" in seen["known"] and seen["at hand"] == ["tones:pitch"]
    assert seen["classes"] == ["high", "low", "mid"] and seen["clips"] == 30
    assert seen["runs"] == [["tones:pitch", f"fold{n}", seed, 2] for seed in range(3) for n in range(1, 5)]
    assert seen["role"] == "P0 FSDD"
