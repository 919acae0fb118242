"""Papers are found by their files: a new one is a new file, and nothing else."""

from __future__ import annotations

import re

import pytest

from capslib import claims, papers, paths, tables

TOY = """
from capslib import study
from capslib.claims import Claim, higher
from capslib.papers import Paper, Role

PAPER = Paper(
    "TOY",
    "a toy",
    corpora=(Role("Digits", "ten digits", "it is made here"),),
    claims={"an LSTM beats a CNN": Claim("Table 1", higher(["lstm"], ["cnn"], ["Digits"]), "02")},
    grids=lambda profile: [study.grid(["synth_digits"], ["cnn", "lstm"], profile)],
)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder with one more declaration in it."""
    (tmp_path / "toy_paper.py").write_text(TOY, encoding="utf-8")
    (tmp_path / "toy_tables.py").write_text("ROWS = 3\n", encoding="utf-8")  # a sibling that declares no paper
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path)])


def test_a_paper_is_a_new_file(toy):
    declared = papers.declared()
    assert [paper.key for paper in declared] == ["P0", "P1", "P2", "P3", "P4", "TOY"]
    rows, runs = claims.ledger([paper for paper in declared if paper.key == "TOY"], "quick")
    assert rows.iloc[0][["paper", "claim, in our words", "notebook"]].tolist() == ["TOY", "an LSTM beats a CNN", "02"]
    assert rows["verdict"].tolist() == [claims.NO_DATA] and len(runs[0].grid) > 0  # synthetic corpora never count
    roles = tables.roles(
        declared, {"synth_digits:digit": {"role": "TOY Digits", "evidence": "synthetic", "missing": []}}
    )
    assert roles.iloc[-1][["paper", "corpus", "in this run"]].tolist() == ["TOY", "Digits", "synth_digits:digit"]


def test_a_paper_s_claims_point_to_notebooks_that_exist():
    notebooks = {path.name[:2] for path in (paths.root() / "notebooks").glob("*.ipynb")}
    for paper in papers.declared():
        assert re.fullmatch(r"P\d", paper.key) and paper.title
        assert {claim.notebook for claim in paper.claims.values()} <= notebooks
