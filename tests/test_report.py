"""Reports: rendered from records without training, readable offline, and honest about what failed."""

import json
import re

import nbformat
import pytest

from capslib import paths, report, study
from capslib.__main__ import main
from capslib.errors import CapslibError


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """`make report` into a scratch folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSLIB_REPORTS", str(tmp_path_factory.mktemp("reports")))
        patch.delenv("CAPSLIB_CACHE")
        assert main(["report", "--notebooks", "02"]) == 0
        yield study.reports() / "quick"


def test_nothing_is_trained(rendered):
    assert not (rendered / "records").exists()


def test_page_shows_the_table_and_fetches_nothing(rendered):
    page = (rendered / "02_baselines.html").read_text(encoding="utf-8")
    assert "P0 Table 1" in page and "0.692" in page
    fetched = re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']+""", page)
    assert not fetched
    assert "study.grid(" not in page, "the page is for readers, the code is in the notebook"


def test_index_links_to_pages_figures_and_tables(rendered):
    index = (rendered / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:href|src)="([^"#]+)"', index):
        assert (rendered / name).exists() or name == "records/", name
    assert "02_baselines.html" in index


def test_tables_and_figures_lie_beside_the_page(rendered):
    assert (rendered / "tables" / "02-table1.csv").is_file()
    assert (rendered / "figures" / "02-accuracy.png").is_file()


def test_executed_notebook_agrees_with_the_one_in_git(rendered):
    ours = nbformat.read(rendered / "notebooks" / "02_baselines.ipynb", as_version=4)
    git = nbformat.read(paths.root() / "notebooks" / "02_baselines.ipynb", as_version=4)

    def tables(notebook):
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        return [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]

    assert tables(ours) == tables(git)


def test_unknown_profile_notebook_and_parameter_end_in_one_sentence(capsys):
    for words, nearest in (
        (["report", "--profile", "ful"], "did you mean 'full'"),
        (["report", "--notebooks", "72"], "known are 01"),
        (["report", "-p", "MODEL=1", "--notebooks", "02"], "did you mean 'MODELS'"),
        (["reproduce", "-p", "CORPUS=1", "--notebooks", "01"], "did you mean 'CORPORA'"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert nearest in error and error.count("\n") == 1


def test_a_failing_cell_is_named_and_the_index_is_still_written(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell("PROFILE = 'quick'  # profile"), nbformat.v4.new_code_cell("1 / 0")]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "99_broken.ipynb")
    monkeypatch.setattr(report, "notebooks", lambda: {"99": folder / "99_broken.ipynb"})
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path / "reports"))
    with pytest.raises(CapslibError, match=r"99_broken.ipynb, cell \d+: ZeroDivisionError"):
        report.make("quick")
    assert (tmp_path / "reports" / "quick" / "index.html").is_file()


def test_how_printed_text_arrives_does_not_show():
    def stream(text, name="stdout"):
        return nbformat.v4.new_output("stream", text=text, name=name)

    table = nbformat.v4.new_output("display_data", {"text/html": "<table>"})
    cell = nbformat.v4.new_code_cell(
        "print()", outputs=[stream("a"), stream("!", "stderr"), stream("\n"), table, stream("b")]
    )
    shown = report.canonical(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert [out.get("text") for out in shown] == ["a\n", None, "b"], "what stands below a table stays there"


def test_accept_without_records_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    with pytest.raises(CapslibError, match="run `make reproduce` first"):
        report.accept()


def test_only_embedded_records_of_this_code_are_accepted(tmp_path, monkeypatch):
    kept = sorted((study.accepted() / "records").glob("*.json"))[0]
    record = json.loads(kept.read_text(encoding="utf-8"))
    folder = tmp_path / "quick" / "records"
    folder.mkdir(parents=True)
    for name, changes in (
        ("good", {}),
        ("older", {"code": "0" * 16}),
        ("real", {"config": record["config"] | {"corpus": "fsdd:digit"}}),
        (".half", {}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(record | changes | {"key": name}), encoding="utf-8")
    monkeypatch.setenv("CAPSLIB_REPORTS", str(tmp_path))
    monkeypatch.setattr(study, "accepted", lambda: tmp_path / "accepted")
    monkeypatch.setattr(report, "refresh", list)
    (tmp_path / "accepted" / "records").mkdir(parents=True)
    (tmp_path / "accepted" / "records" / "before.json").write_text("{}")
    report.accept()
    assert [path.name for path in (tmp_path / "accepted" / "records").iterdir()] == ["good.json"]


def test_real_recordings_at_hand_are_named_in_the_first_line():
    line = study.first_line("quick", ["synth_digits:digit", "fsdd:digit"])
    assert "Embedded synthetic corpora: synth_digits:digit." in line and "Real recordings: fsdd:digit." in line


def test_unknown_corpus_in_a_notebook_is_refused():
    with pytest.raises(CapslibError, match="did you mean 'fsdd'"):
        study.corpora_in("quick", "fsd")


def test_doctor_lists_every_corpus(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "urbansound8k" in said and "records" in said
