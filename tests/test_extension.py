"""A new paper and a new corpus are new files only: in a copy of the project they reach grid, tables and ledger."""

import os
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import tiny
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from capslib import paths

CORPUS = '''
"""Tones: three pitches, one take per clip."""

from capslib.corpora.layout import clips
from capslib.corpora.table import Budget, Source, Task

SOURCES = (
    Source(
        name="tones",
        read=lambda folder: clips(folder, r"(?P<pitch>[a-z]+)/(?P<take>\\d+)"),
        folder="tones",
        tasks={
            "pitch": Task(
                label="pitch",
                group="take",
                interval_over="fold",
                protocol="5 folds by take",
                role="P9 Tones",
                evidence="same corpus",
            )
        },
        sample_rate=16_000,
        citation="tones",
        licence="none",
        how_to_get="sing",
        budgets={"quick": Budget(epochs=2)},
    ),
)
'''
MODEL = '''
"""P9: the mean frame of each class; nothing is trained."""

from dataclasses import dataclass

import torch

from capslib.features import lengths_to_mask
from capslib.layers import masked_mean
from capslib.models import AudioModel, Entry


@dataclass(frozen=True)
class NearestConfig:
    """No options."""


class Nearest(AudioModel):
    """Scores are the negative distances from the classes' means."""

    def __init__(self, in_features, num_classes, config):
        super().__init__(in_features)
        self.register_buffer("means", torch.zeros(num_classes, in_features))

    def embed(self, features, lengths):
        return masked_mean(self.standardize(features), lengths_to_mask(lengths, features.shape[1]))

    def fit(self, part):
        super().fit(part)
        clips = torch.stack([self.standardize(clip).mean(0) for clip in part.clips])
        for k in range(len(self.means)):
            self.means[k] = clips[part.targets == k].mean(0)

    def forward(self, features, lengths):
        return -torch.cdist(self.embed(features, lengths), self.means)


MODELS = {"nearest": Entry(Nearest, NearestConfig)}
'''
PAPER = """
from capslib import study
from capslib.claims import Claim, higher
from capslib.papers import Paper, Role

SYSTEMS = {"nearest mean": ("nearest", {}, {"epochs": 0}), "LSTM": ("lstm", {})}
PAPER = Paper(
    "P9",
    "On the nearest mean",
    corpora=(Role("Tones", "three pitches", "sing"),),
    claims={"the nearest mean beats an LSTM": Claim("Table 1", higher(["nearest mean"], ["LSTM"], ["Tones"]), "99")},
    grids=lambda profile: [study.grid(["tones"], SYSTEMS, profile)],
)
"""
PUBLISHED = """paper,table,row,column,metric,unit,value,note
P9,Table 1,Tones,Mean,accuracy,percent,91.5,
P9,Table 1,Tones,LSTM,accuracy,percent,80.0,
"""
CELLS = [
    'PROFILE = "quick"  # "quick" or "full"\nRECORDS = "accepted"  # or "fresh"\nTRAIN = True  # or only read records',
    "from capslib import study, tables\nfrom capslib.papers import p9\n\nOUT = study.reports() / PROFILE\n"
    'runs = study.run(study.grid(["tones"], p9.SYSTEMS, PROFILE), RECORDS, TRAIN)',
    'columns = {"nearest mean": "Mean", "LSTM": "LSTM"}\n'
    'tables.results(runs, rows="corpus", columns=columns, published=("P9", "Table 1"), name="99-table1", out=OUT)',
]


@pytest.fixture
def project(tmp_path):
    """A copy of the package and of what the papers print, with the new files beside the old ones."""
    for folder in ("capslib", "data/published"):
        shutil.copytree(paths.root() / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    notebook = new_notebook(cells=[new_markdown_cell("# Nearest mean"), *map(new_code_cell, CELLS)])
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for file, text in {
        "pyproject.toml": "",
        "capslib/corpora/tones.py": CORPUS,
        "capslib/models/p9.py": MODEL,
        "capslib/papers/p9.py": PAPER,
        "data/published/p9.csv": PUBLISHED,
        "notebooks/99_nearest.ipynb": nbformat.writes(notebook),
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    tiny.write_folder(tmp_path / "recordings" / "tones")
    return tmp_path


def test_a_paper_and_a_corpus_are_new_files(project):
    places = {"PYTHONPATH": project, "CAPSLIB_DATA": project / "recordings", "CAPSLIB_REPORTS": project / "reports"}
    command = [sys.executable, "-m", "capslib", "reproduce", "--notebooks", "99"]
    environment = os.environ | {name: str(place) for name, place in places.items()}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    def read(name: str) -> pd.DataFrame:
        return pd.read_csv(project / "reports" / "quick" / "tables" / f"{name}.csv", dtype=str, keep_default_na=False)

    table = read("99-table1").set_index("evidence")
    assert table.loc["published", ["Mean", "LSTM"]].tolist() == ["0.915", "0.800"]
    assert table.loc["same corpus", "corpus"] == "tones:pitch" and float(table.loc["same corpus", "Mean"][:5]) > 0.9
    ledger = read("claims").set_index("paper").loc["P9"]
    assert (
        ledger["verdict"] in ("supported", "inconclusive") and "tones:pitch: nearest mean - LSTM" in ledger["evidence"]
    )
    assert "P0" in set(read("claims")["paper"])
    assert "99_nearest" in (project / "reports" / "quick" / "index.html").read_text(encoding="utf-8")
