"""What a person who clones this finds: style, one source of versions, commands that exist, no junk."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter

import pytest

from capslib import corpora, paths

ROOT = paths.root()


def tracked():
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_style(words):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words, "capslib", "bench", "tests", "notebooks"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_room_is_too_large():
    sizes = {
        path: len(path.read_text().splitlines())
        for room in ("capslib", "bench")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {path.name: lines for path, lines in sizes.items() if lines > 400} == {}


def rooms() -> dict[str, set[str]]:
    """Which rooms of the package each of them imports, read from the tree."""
    used: dict[str, set[str]] = {}
    for path in (ROOT / "capslib").rglob("*.py"):
        room = path.relative_to(ROOT / "capslib").parts[0].removesuffix(".py")
        names = used.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "capslib":
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("capslib."):
                names.add(node.module.split(".")[1])
    return {room: names - {room} for room, names in used.items()}


def test_imports_run_one_way():
    """There is an order of the rooms in which each uses only those before it."""
    tuple(TopologicalSorter(rooms()).static_order())  # CycleError names the rooms of a circle


def test_what_others_build_on_uses_nothing_above_it():
    used = rooms()
    assert used["layers"] <= {"errors"}
    assert used["corpora"] <= {"errors", "paths"}
    assert not {room for room, names in used.items() if "papers" in names} - {"report", "__main__"}


def test_papers_are_named_only_where_they_are_declared():
    named = {
        path.relative_to(ROOT / "capslib").as_posix()
        for path in (ROOT / "capslib").rglob("*.py")
        if re.search(r"[\"']P[0-4]", path.read_text(encoding="utf-8"))
    }
    assert not {name for name in named if name.split("/")[0] not in ("papers", "models", "corpora")}


def test_layers_need_only_torch():
    for path in (ROOT / "capslib" / "layers").glob("*.py"):
        imports = re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.M)
        assert set(imports) <= {"torch", "triton", "capslib"} | sys.stdlib_module_names, path.name


def test_lock_pins_every_requirement_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    names = {re.match(r"[A-Za-z0-9_.-]+", r)[0].lower().replace("_", "-") for r in wanted}
    lock = (ROOT / "requirements.lock").read_text().lower()
    pinned = set(re.findall(r"^([a-z0-9_.-]+)==", lock, re.M))
    assert not names - pinned
    assert "://" not in lock
    assert "-r requirements.lock" in (ROOT / "environment.yml").read_text()


def test_makefile_says_what_its_targets_do():
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True)
    for target in ("reproduce", "report", "test", "data", "lab", "bench", "clean", "accept"):
        assert re.search(rf"^  {target} +\w", done.stdout, re.M), target


def test_readme_names_commands_and_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_readme_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_no_audio_and_no_large_files_in_git():
    files = tracked()
    assert not [f.name for f in files if f.suffix in (".wav", ".flac", ".ogg", ".mp3", ".pt", ".safetensors")]
    assert not [f.name for f in files if f.stat().st_size > 2_000_000]


def test_no_machine_path_in_git():
    pattern = re.compile(rb"/(?:home|root|work|Users)/[a-z]")
    text = [f for f in tracked() if f.suffix not in (".png", ".svg") and f.name != "test_notebooks.py"]
    assert not [f.relative_to(ROOT).as_posix() for f in text if pattern.search(f.read_bytes())]


def test_every_corpus_says_where_it_comes_from():
    for source in corpora.sources().values():
        assert source.citation and source.licence and source.how_to_get, source.name
