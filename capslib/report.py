"""Notebooks through papermill, made canonical, and the pages that a reader opens: HTML without any connection.

A notebook in git is executed at the quick profile and reads accepted records; ``reports/<profile>/`` holds the executed
copies. Canonical means that the same results give the same bytes: no run times, no stderr, cells numbered 1..n.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import jinja2
import nbformat
import papermill
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from capslib import claims, corpora, papers, paths, study, tables
from capslib.errors import CapslibError, choose
from capslib.records import read

CELL_TIMEOUT = 6 * 3600
_PAGE = jinja2.Template(
    """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0 } th, td { border-bottom: 1px solid #ddd }
pre { white-space: pre-wrap; font-size: 0.85rem; background: #f6f6f6; padding: 0.5rem } img { max-width: 100% }
.jp-OutputArea-output, .output_area { overflow-x: auto } .prompt, .anchor-link { display: none }
footer { margin-top: 3rem; border-top: 1px solid #ddd; color: #666; font-size: 0.85rem } a { color: #0072B2 }
</style></head><body>
{{ body }}
<footer>{{ footer }}</footer></body></html>
"""
)


def notebooks() -> dict[str, Path]:
    """Notebooks by number: {"01": notebooks/01_features.ipynb, ...}."""
    return {path.name[:2]: path for path in sorted((paths.root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))}


# What a notebook says in its metadata of where its numbers come from, and how a page words it.
NUMBERS = {
    "records": "a record in records/",
    "recordings": "the recordings",
    "measurements": "a measurement in data/measured/",
}


def numbers_of(notebook: NotebookNode) -> str:
    """Where a notebook's numbers come from, a name in ``NUMBERS``; "records" where its metadata do not say."""
    said = notebook.metadata.get("capslib", {}).get("numbers", "records")
    return choose(said, NUMBERS, "kind of numbers in a notebook's metadata")


def check_parameters(notebook: Path, parameters: Mapping[str, object]) -> Mapping[str, object]:
    """The parameters that a notebook has. papermill runs on with a misspelt one; we do not.

    Raises CapslibError with the nearest name, or if the notebook names no kernel.
    """
    try:
        known = papermill.inspect_notebook(str(notebook))
    except ValueError as error:
        raise CapslibError(f"{notebook.name}: {error} Open it in Jupyter, choose a kernel and save it") from None
    for name in parameters:
        choose(name, known, f"parameter of {notebook.name}")
    return known


def canonical(notebook: NotebookNode) -> NotebookNode:
    """The same results as the same bytes: cells numbered in order, no times, no stderr, no kernel of one machine."""
    nb = nbformat.from_dict(notebook)
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nb.metadata = nbformat.from_dict(about | {"capslib": {"numbers": numbers_of(nb)}})
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    nb.cells = [cell for cell in nb.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for i, cell in enumerate(nb.cells):
        cell.id = f"cell-{i:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = _joined(_canonical_output(out, count) for out in cell.outputs if out.get("name") != "stderr")
    return nb


def _joined(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Printed text that follows printed text is one output: where it was cut depends on timing alone."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _canonical_output(output: NotebookNode, count: int) -> NotebookNode:
    if output.output_type == "execute_result":
        output.execution_count = count
    if "metadata" in output:
        output.metadata = nbformat.from_dict({})
    return output


def execute(notebook: Path, parameters: Mapping[str, object], into: Path) -> NotebookNode:
    """Run a notebook from top to bottom in a kernel of this environment.

    Args:
        notebook: with a cell tagged ``parameters``.
        parameters: by name; unknown ones are refused.
        into: the executed notebook, as papermill leaves it; written even when a cell fails.
    Raises:
        CapslibError: naming the notebook, the cell and the error.
    """
    check_parameters(notebook, parameters)
    into.parent.mkdir(parents=True, exist_ok=True)
    run = partial(
        papermill.execute_notebook,
        str(notebook),
        str(into),
        parameters=dict(parameters),
        kernel_name="python3",
        progress_bar=False,
        cwd=str(notebook.parent),
        execution_timeout=CELL_TIMEOUT,
        start_timeout=180,
        log_output=False,
        stderr_file=sys.stderr,
        extra_arguments=["--log-level=ERROR"],
    )
    try:
        return _in_a_thread(run)
    except papermill.PapermillExecutionError as error:
        raise CapslibError(
            f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue} (the notebook as far as it came: "
            f"{paths.shown(into)})"
        ) from None
    except (RuntimeError, TimeoutError) as error:  # the kernel died, did not start, or a cell took too long
        raise CapslibError(f"{notebook.name}: {type(error).__name__}: {str(error).splitlines()[0]}") from None


def _in_a_thread(function: Callable[[], NotebookNode]) -> NotebookNode:
    """The function's result. In the main thread nbclient takes Ctrl-C for itself, and only one notebook ends."""
    result: Future[NotebookNode] = Future()

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return result.result()


def html(notebook: NotebookNode, title: str, footer: str) -> str:
    """One page, code hidden, pictures inside, nothing fetched."""
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    return _PAGE.render(title=title, body=body, footer=footer)


def revision() -> str:
    """The commit that this checkout is at, with "+changes" if files differ; "no git" outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=paths.root(), check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=10", "HEAD")
    # Reports are what is being written, so they do not count.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
    return (commit + ("+changes" if changed else "")) if commit else "no git"


def make(
    profile: str,
    numbers: Sequence[str] = (),
    defaults: Mapping[str, object] | None = None,
    parameters: Mapping[str, object] | None = None,
    from_records: bool = False,
) -> Path:
    """Execute notebooks and render ``reports/<profile>/``.

    Args:
        profile: "quick" or "full".
        numbers: of the notebooks, all by default.
        defaults: parameters for those notebooks that have them.
        parameters: that every chosen notebook must have.
        from_records: leave the pages as they are that need recordings which are not on this machine.
    Returns:
        The index page.
    Raises:
        CapslibError: after all notebooks were tried, naming those that failed.
    """
    choose(profile, study.PROFILES, "profile")
    there = notebooks()
    chosen = [there[choose(number[:2], there, "notebook")] for number in numbers] or list(there.values())
    wanted = {}
    for notebook in chosen:
        known = check_parameters(notebook, parameters or {})
        offered = {"PROFILE": profile, **(defaults or {}), **(parameters or {})}
        wanted[notebook] = {name: value for name, value in offered.items() if name in known}
        needed = wanted[notebook].get("CORPORA") if numbers_of(nbformat.read(notebook, 4)) == "recordings" else None
        if from_records and (away := _not_available(profile, needed)):
            print(f"{notebook.name}: left as it is, because {', '.join(away)} are not available")
            del wanted[notebook]
    chosen = list(wanted)
    out = study.reports() / profile
    failures = []
    for notebook in chosen:
        began = time.perf_counter()
        print(f"{notebook.name}: running", flush=True)
        unfinished = out / "notebooks" / f".{notebook.name}"
        try:
            executed = canonical(execute(notebook, wanted[notebook], unfinished))
        except CapslibError as error:
            failures.append(str(error))
            print(f"{notebook.name}: FAILED: {error}", flush=True)
            continue
        unfinished.unlink(missing_ok=True)
        source = NUMBERS[numbers_of(executed)]
        footer = f"{notebook.name}, profile {profile}, code at {revision()}; every number of ours comes from {source}."
        paths.write_text(out / "notebooks" / notebook.name, nbformat.writes(executed) + "\n")
        paths.write_text(out / f"{notebook.stem}.html", html(executed, notebook.stem, footer))
        print(f"{notebook.name}: done in {time.perf_counter() - began:.0f} s", flush=True)
    write_claims(profile)
    index = write_index(profile)
    if failures:
        raise CapslibError(f"{len(failures)} of {len(chosen)} notebooks failed: " + "; ".join(failures))
    return index


def _not_available(profile: str, wanted: object) -> list[str]:
    keys = study.corpora_in(profile, str(wanted)) if wanted else []
    return [key for key in keys if corpora.find(key) is None]


def write_claims(profile: str) -> Path:
    """``reports/<profile>/claims.html`` and ``tables/claims.csv``: the ledger, from the records there are."""
    out = study.reports() / profile
    rows, ledgers = claims.ledger(papers.declared(), profile)
    needed, missing = sum(len(runs.grid) for runs in ledgers), sum(len(runs.missing) for runs in ledgers)
    caption = (
        "Each claim of the papers, what our records say, and a verdict that is computed from them: supported or not "
        "supported where every comparison that the claim makes, or one against it, is significant after Holm's "
        "correction within the claim. Between two systems, one that has not learnt its own training part decides "
        "nothing. "
        f"{needed - missing} of {needed} runs have a record of today's code."
    )
    table = tables.show(rows, "claims", caption, out).data
    body = f"<h1>Claims ledger: {profile}</h1>\n{table}"
    return paths.write_text(
        out / "claims.html", _PAGE.render(title="Claims ledger", body=body, footer=f"code at {revision()}")
    )


def write_index(profile: str) -> Path:
    """``reports/<profile>/index.html``: the pages, tables, figures and how many records there are."""
    out = study.reports() / profile
    pages = [("claims.html", "Claims ledger: what the papers say, and what our records say of it")]
    pages += [(p.name, _title(out / "notebooks" / f"{p.stem}.ipynb")) for p in sorted(out.glob("[0-9][0-9]_*.html"))]
    csvs = sorted(p.name for p in (out / "tables").glob("*.csv"))
    figures = sorted(p.stem for p in (out / "figures").glob("*.png"))
    body = jinja2.Template(
        """<h1>Capsule networks for audio: {{ profile }} report</h1>
{% if profile == "quick" %}<p>Synthetic corpora and small budgets: this shows that the study runs, not what is true of
speech. The published questions are answered by the full report.</p>{% endif %}
<ul>{% for file, title in pages %}<li><a href="{{ file }}">{{ title }}</a></li>{% endfor %}</ul>
<h2>Figures</h2>{% for name in figures %}
<p><a href="figures/{{ name }}.svg"><img src="figures/{{ name }}.png" alt="{{ name }}" width="420"></a><br>
{{ name }}: <a href="figures/{{ name }}.svg">SVG</a>, <a href="figures/{{ name }}.csv">data</a></p>{% endfor %}
<h2>Tables</h2><ul>{% for name in tables %}<li><a href="tables/{{ name }}">{{ name }}</a></li>{% endfor %}</ul>
<h2>Records</h2><p>{{ records }} run records in <a href="records/">records/</a>: configuration, fold, seed, data and
code fingerprints, metrics per epoch, confusion matrix and predictions of every run.</p>"""
    ).render(profile=profile, pages=pages, tables=csvs, figures=figures, records=len(study.store(profile)))
    title = f"Capsule networks for audio: {profile}"
    return paths.write_text(out / "index.html", _PAGE.render(title=title, body=body, footer=f"code at {revision()}"))


def _title(notebook: Path) -> str:
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0][2:]
    return notebook.stem


def accept() -> list[Path]:
    """Take this machine's quick records as the accepted ones, and execute the notebooks in git anew with them.

    Returns:
        The notebooks written.
    Raises:
        CapslibError: if there are no quick records yet, or fewer than were accepted: of some notebooks only.
    """
    own = study.reports() / "quick" / "records"
    fresh = {record["key"]: path for path, record in _embedded(own)}
    if not fresh:
        raise CapslibError(
            "reports/quick has no records of today's code: run `make reproduce` first, look at its report, then accept"
        )
    folder = study.accepted() / "records"
    lacking = sorted(
        path.name for path, record in _embedded(folder, skip_unreadable=True) if record["key"] not in fresh
    )
    if lacking:
        raise CapslibError(
            f"reports/quick lacks {len(lacking)} of the records accepted so far ({lacking[0]}, ...): run "
            "`make reproduce` with all notebooks first"
        )
    for path in fresh.values():
        paths.write_text(folder / path.name, path.read_text(encoding="utf-8"))
    for old in set(folder.glob("*.json")) - {folder / path.name for path in fresh.values()}:
        old.unlink()
    written = refresh()  # measures the probes that these records lack
    stored = study.accepted() / "probes"
    probes = [
        path
        for path in sorted((study.reports() / "quick" / "probes").glob("*.json"))
        if path.stem.split("-")[-1] in fresh
    ]
    for path in probes:
        paths.write_text(stored / path.name, path.read_text(encoding="utf-8"))
    for old in set(stored.glob("*.json")) - {stored / path.name for path in probes}:
        old.unlink()
    return written


def _embedded(folder: Path, skip_unreadable: bool = False) -> Iterator[tuple[Path, dict]]:
    """Records of embedded corpora made by today's code: neither own recordings nor older versions go into git."""
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            record = read(path)
        except CapslibError:
            if skip_unreadable:
                continue
            raise
        config = record["config"]
        if corpora.is_embedded(config["corpus"]) and record["code"] == study.code_of(config):
            yield path, record


def refresh() -> list[Path]:
    """Execute the notebooks in git with their own defaults and write them back, canonical."""
    written = []
    for notebook in notebooks().values():
        unfinished = study.reports() / "quick" / "notebooks" / f".{notebook.name}"
        executed = canonical(execute(notebook, {}, unfinished))
        unfinished.unlink(missing_ok=True)
        written.append(paths.write_text(notebook, nbformat.writes(executed) + "\n"))
    return written
