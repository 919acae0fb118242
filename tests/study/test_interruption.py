"""Interrupted grids lose the runs under way and nothing else; and they run elsewhere with the same records."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tone_grids import MODELS, contents, files, tones_grid

from capslib import study
from capslib.errors import CapslibError

SCRIPT = """
import time
from capslib import records, study

study.folders.accepted = lambda: study.reports() / "none"
put, stored = records.Store.put, []


def put_slowly(store, record):
    # however late a busy machine interrupts, the last run waits for it
    put(store, record)
    stored.append(record)
    time.sleep(60 * (len(stored) == 5))


records.Store.put = put_slowly
study.run(study.grid(["folder:tones"], {models!r}, seeds=range(3), epochs=12, batch_size=8), workers={workers})
"""


@pytest.fixture(scope="module")
def unbroken(tones, tmp_path_factory) -> dict[str, dict]:
    """Records of the grid when nothing comes between."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSLIB_REPORTS", str(folder))
        study.run(tones_grid())
    made = contents(folder)
    assert len(made) == 6
    return made


@contextlib.contextmanager
def under_way(reports: Path, workers: int, background: bool = False):
    """The grid in a process group of its own, from its first record on; whatever is left of it is killed in the end.

    Args:
        background: started as a shell without job control starts what it puts into the background, with SIGINT ignored.
    """
    code = SCRIPT.format(models=MODELS, workers=workers)
    handler = signal.SIG_IGN if background else signal.default_int_handler
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    before = signal.signal(signal.SIGINT, handler)  # a child inherits what is ignored, and nothing else
    try:
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=dict(os.environ), **quiet)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 200
        while not files(reports) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, "the grid ended before it could be interrupted"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_resumed(reports: Path, unbroken: dict[str, dict]) -> None:
    """Run again: equal to the unbroken grid, and what was finished is not made again."""
    finished = {name: (path.stat().st_mtime_ns, path.stat().st_ino) for name, path in files(reports).items()}
    assert 0 < len(finished) < len(unbroken), "the interruption came too late to show anything"
    runs = study.run(tones_grid())
    assert len(runs.records) == len(unbroken) and runs.missing == ()
    assert contents(reports) == unbroken
    now = {name: (path.stat().st_mtime_ns, path.stat().st_ino) for name, path in files(reports).items()}
    assert finished.items() <= now.items()


def test_a_grid_killed_half_way_ends_like_an_unbroken_one(unbroken, reports):
    """kill -9 of everything, with two workers; the rest is made by one: how many there are does not show."""
    with under_way(reports, workers=2) as process:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    check_resumed(reports, unbroken)


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_the_first_signal_stops_a_grid_and_keeps_what_is_finished(number, background, unbroken, reports):
    with under_way(reports, workers=1, background=background) as process:
        os.killpg(process.pid, number)  # as a terminal does it: to all of them
        assert process.wait(60) != 0
    check_resumed(reports, unbroken)


def test_a_number_of_workers_that_is_none_is_told(reports, monkeypatch):
    monkeypatch.setenv("CAPSLIB_WORKERS", "two")
    with pytest.raises(CapslibError, match="CAPSLIB_WORKERS"):
        study.run(tones_grid(seeds=[0], epochs=1))


def test_a_cluster_without_dask_says_what_to_install(reports, monkeypatch):
    monkeypatch.setenv("CAPSLIB_CLUSTER", "tcp://127.0.0.1:8786")
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(CapslibError, match=r"Dask is not installed: pip install 'capslib\[cluster\]'"):
        study.run(tones_grid(seeds=[0]))


@pytest.mark.parametrize("threads", [1, 2])  # Dask's own default is as many as cores
def test_a_cluster_makes_the_same_records(threads, unbroken, reports, monkeypatch):
    distributed = pytest.importorskip("dask.distributed")
    cluster = distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=threads, dashboard_address=None)
    with cluster:
        monkeypatch.setenv("CAPSLIB_CLUSTER", cluster.scheduler_address)
        study.run(tones_grid())
    assert contents(reports) == unbroken
