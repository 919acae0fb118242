"""What a person who clones this finds: style, one source of versions, commands that exist, no junk."""

import re
import subprocess
import sys
import tomllib

import pandas as pd
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
        [sys.executable, "-m", "ruff", *words, "capslib", "tests", "notebooks"], capture_output=True, text=True, cwd=ROOT, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_room_is_too_large():
    sizes = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "capslib").rglob("*.py")}
    assert {name: lines for name, lines in sizes.items() if lines > 400} == {}


ROOMS = [
    "corpora",
    "perturbation",
    "features",
    "layers",
    "models",
    "schedules",
    "runs",
    "records",
    "training",
    "executors",
    "study",
    "carry",
    "insight",
    "statistics",
    "tables",
    "tables_emotion",
    "claims",
    "papers",
    "speed",
    "speed_routing",
    "figures",
    "figures_emotion",
    "figures_speed",
    "report",
    "bench",
]


def test_imports_run_one_way():
    order = {room: i for i, room in enumerate(ROOMS)}
    wrong = []
    for path in (ROOT / "capslib").rglob("*.py"):
        room = path.relative_to(ROOT / "capslib").parts[0].removesuffix(".py")
        if room not in order:
            continue
        text = path.read_text()
        used = set(re.findall(r"^\s*from capslib\.(\w+)", text, re.M))
        for names in re.findall(r"^\s*from capslib import ([\w, ]+)", text, re.M):
            used |= {name.strip() for name in names.split(",")}
        # models know masks, which features define; layers know nothing of ours
        wrong += [f"{room} uses {other}" for other in used if order.get(other, -1) > order[room]]
        if room == "layers":
            wrong += [f"layers uses {other}" for other in used - {"layers"}]
    assert not wrong


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


@pytest.mark.parametrize("table", [*(f"{n}-tests" for n in ("02", "03", "04", "05", "06", "08")), "09-text-tests"])
def test_readme_counts_the_verdicts_of_the_report(table):
    tests = pd.read_csv(ROOT / "reports" / "full" / "tables" / f"{table}.csv")
    tested = tests[tests["p"].notna()]
    decided = tested["verdict"].isin(["higher", "lower"]).sum()
    assert f"{decided} of {len(tested)} comparisons" in (ROOT / "README.md").read_text()


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
        assert source.citation and source.licence and source.how_to_get and source.homepage, source.name
