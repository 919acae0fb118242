"""Train what a grid lacks: a record per run, written as it ends: an interruption loses only what is under way."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import joblib
from tqdm import tqdm

from capslib import corpora, paths, training
from capslib.errors import CapslibError
from capslib.records import SCHEMA, Store, run_key
from capslib.study.executors import executor
from capslib.study.folders import card_file, store, weights_file
from capslib.study.grids import Grid, Run, code_of, plain
from capslib.study.results import Runs
from capslib.training import RunConfig

# Runs in threads of one process (a Dask worker has as many as cores) would share torch's generator of random numbers.
_ONE_RUN_PER_PROCESS = threading.Lock()


def source_of(config: RunConfig) -> training.Transfer | None:
    """What a run's source gives for its corpus, if it has one; the source is trained first, once per machine. Raises
    CapslibError if it does not fit the run, see ``training.check_source``."""
    source = config.source
    if source is None:
        return None
    training.check_source(config)
    described = plain(source)
    key = run_key(described, corpora.load(source.corpus).split_fingerprint(source.split), code_of(described))
    weights = paths.cache() / "sources" / f"{key}.safetensors"
    results = weights.with_suffix(".json")
    if not (weights.is_file() and results.is_file()):  # both are written whole, the results last
        record = training.train(source, weights)
        some = {name: record[name] for name in ("config", "chosen_epoch", "train", "validation", "test")}
        paths.write_text(results, json.dumps(some))
    vectors = training.source_vectors(config, weights)
    return training.Transfer(vectors, json.loads(results.read_text(encoding="utf-8")))


def train_run(config: RunConfig, weights: Path | None = None) -> dict:
    """``training.train``, with what the run's source gives."""
    return training.train(config, weights, source=source_of(config))


def make_record(run: Run, weights: Path | None) -> tuple[Run, dict | str]:
    """The record of a run, or in one sentence why there is none; called in a worker."""
    try:
        with _ONE_RUN_PER_PROCESS:
            record = train_run(run.config, weights)
    except CapslibError as error:
        return run, str(error)
    except Exception as error:
        return run, f"{run.config.title()}: {type(error).__name__}: {error}"
    if record["data"]["fingerprint"] != run.data:
        return run, f"{run.config.title()}: the recordings changed while the grid was running: start it again"
    return run, json.loads(json.dumps({"schema": SCHEMA, "key": run.key, "code": run.code, **record}))


@contextmanager
def stopping() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within, by KeyboardInterrupt.

    A shell without job control starts what it puts into the background with SIGINT ignored, and Python then installs no
    handler of its own: without this, such a grid could only be killed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    grid: Grid,
    records: str = "accepted",
    train: bool = True,
    workers: int | None = None,
    keep_weights: bool = True,
) -> Runs:
    """Make what has no record yet. Each record is written as its run ends: an interruption loses only runs under way.

    Args:
        grid: what to run.
        records: see ``store``.
        train: False to only read records; older ones (other code or data) are then shown, and listed as such.
        workers: see ``executor``.
        keep_weights: save the chosen weights of each run beside the records (not in git).
    Raises:
        CapslibError: naming the runs that failed; the others' records are kept.
    """
    available = store(grid.profile, records)
    todo = [job for job in grid.runs if available.get(job.key) is None]
    if train and todo:
        for key, card in grid.cards.items():
            paths.write_text(card_file(grid.profile, key), json.dumps(card, indent=1, sort_keys=True) + "\n")
        _train(
            todo, available, [weights_file(grid.profile, job.key) if keep_weights else None for job in todo], workers
        )
    present, missing, older = [], [], []
    for job in grid.runs:
        record = available.get(job.key)
        if record is None and not train:
            record = available.older(plain(job.config))
            if record is not None:
                older.append(record["key"])
        if record is None:
            missing.append(job)
        else:
            present.append(record | {"system": job.system})
    if grid.runs and not present:
        raise CapslibError(
            f"profile {grid.profile!r} has no record for any of the {len(grid)} runs: run `make reproduce` to make them"
        )
    return Runs(grid, tuple(present), tuple(missing), tuple(older), tuple(available.unreadable))


def _train(todo: list[Run], records: Store, weights: list[Path | None], workers: int | None) -> None:
    """Put a record of every run into the store; CapslibError that names those that failed, once all were tried."""
    failures = []
    with stopping(), executor(workers):
        jobs = (joblib.delayed(make_record)(job, file) for job, file in zip(todo, weights, strict=True))
        results = joblib.Parallel(return_as="generator_unordered")(jobs)
        try:
            for _, result in tqdm(results, total=len(todo), desc="training", unit="run", file=sys.stderr):
                if isinstance(result, str):
                    failures.append(result)
                else:
                    records.put(result)
        except BrokenProcessPool:
            raise CapslibError(
                "a worker was killed, perhaps for want of memory; finished runs are kept: start again, with fewer "
                "workers (CAPSLIB_WORKERS=1) if it happens twice"
            ) from None
    if failures:
        sentences = "; ".join(dict.fromkeys(failures))
        raise CapslibError(f"{len(failures)} of {len(todo)} runs failed, the others are kept: {sentences}")
