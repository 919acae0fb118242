"""The notebooks in git: run from top to bottom, without error, and showing what the accepted records say."""

import ast
import json
import re

import nbformat
import pytest

from capslib import paths, report
from capslib.errors import CapslibError

NOTEBOOKS = sorted((paths.root() / "notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS][:2] == ["01", "02"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestEvery:
    def test_every_code_cell_has_run_in_order_without_error(self, path):
        cells = code_cells(path)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]

    def test_no_stderr_no_skipped_comparison(self, path):
        cells = code_cells(path)
        assert not [out for cell in cells for out in cell.outputs if out.get("name") == "stderr"]
        tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
        assert tags == ["parameters"]
        assert "NBVAL" not in path.read_text(encoding="utf-8")

    def test_is_canonical(self, path):
        notebook = nbformat.read(path, as_version=4)
        assert nbformat.writes(report.canonical(notebook)) + "\n" == path.read_text(encoding="utf-8")

    def test_holds_no_path_of_a_machine(self, path):
        text = "".join(
            "".join(cell["source"]) + json.dumps(cell.get("outputs", []))
            for cell in json.loads(path.read_text())["cells"]
        )
        assert not re.search(r"/(home|root|work|tmp|Users|mnt)/", text)

    def test_defaults_are_quick_embedded_and_literal(self, path):
        parameters = next(c for c in code_cells(path) if "parameters" in c.metadata.get("tags", []))
        names = {}
        exec(parameters.source, {}, names)
        assert names["PROFILE"] == "quick" and names.get("CORPORA", "embedded") == "embedded"
        assert all("#" in line for line in parameters.source.splitlines()), "a comment for each parameter"

    def test_cells_are_short(self, path):
        for cell in code_cells(path):
            assert not re.search(r"^\s*class ", cell.source, re.M), "a class belongs in capslib"
            assert len(cell.source.splitlines()) <= 25

    def test_every_table_is_shown(self, path):
        """A table is the value of its cell: one made on the way is written to a file, and no reader sees it."""
        for cell in code_cells(path):
            calls = [line.value for line in ast.parse(cell.source).body[:-1] if isinstance(line, ast.Expr)]
            assert not [call for call in calls if ast.unparse(call).startswith("tables")], cell.source

    def test_ends_with_its_provenance(self, path):
        assert "tables.provenance(" in code_cells(path)[-1].source

    def test_an_unknown_parameter_is_refused_with_the_nearest_name(self, path):
        with pytest.raises(CapslibError, match="did you mean 'PROFILE'"):
            report.check_parameters(path, {"PROFIL": "full"})
