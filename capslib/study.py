"""Many runs: a grid of configurations, of which only those without a record are trained."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from pathlib import Path

import joblib
import pandas as pd
from tqdm import tqdm

from capslib import corpora, models, paths, training
from capslib.errors import CapslibError, choose
from capslib.executors import executor
from capslib.records import SCHEMA, Store, code_version, run_key
from capslib.training import RunConfig

# A model's name, options that differ from its defaults, and fields of ``RunConfig`` that differ from the profile's.
System = tuple[str, Mapping[str, object]] | tuple[str, Mapping[str, object], Mapping[str, object]]


@dataclass(frozen=True)
class Budget:
    """How much a profile spends on one corpus; the same for every system.

    Attributes:
        epochs: of training.
        seeds: how many, from 0.
        batch_size: clips.
        max_splits: folds, from the first; None for all.
        max_train_clips: None for all.
    """

    epochs: int = 30
    seeds: int = 1
    batch_size: int = 32
    max_splits: int | None = None
    max_train_clips: int | None = None


# The full profile's epochs are what two cores could do, the same for every system: 250 (EmoDB) to 1,100 batches a run.
# Eight, as ASED has, did not let CAPS learn the mixtures, so both systems have twenty there.
PROFILES: Mapping[str, Mapping[str, Budget]] = {
    "quick": {
        "synth_digits": Budget(epochs=12, batch_size=16),
        "synth_gender": Budget(epochs=6, batch_size=16),
        "synth_emotion": Budget(epochs=12, batch_size=16, max_splits=2),
        "multi_gender_synth": Budget(epochs=8, batch_size=16),
        "multi_noise_synth": Budget(epochs=8, batch_size=16),
        "": Budget(epochs=5, batch_size=16, max_splits=1, max_train_clips=300),
    },
    "full": {
        "fsdd": Budget(epochs=30, seeds=5),
        "fsdd6": Budget(epochs=10),
        "emodb": Budget(epochs=20, seeds=3, batch_size=16),
        "ravdess": Budget(epochs=15, batch_size=16),
        "urbansound8k": Budget(epochs=12, batch_size=16),
        "ased": Budget(epochs=8, batch_size=16),
        "multi_gender_ased": Budget(epochs=20, batch_size=16),
        "multi_gender_ravdess": Budget(epochs=20, batch_size=16),
        "multi_noise_ased": Budget(epochs=20, batch_size=16),
        "multi_noise_ravdess": Budget(epochs=20, batch_size=16),
        "": Budget(epochs=20, batch_size=16),
    },
}


@dataclass(frozen=True)
class Run:
    """One cell's worth of training: its configuration, the data it is for, the code, and the system it is a run of."""

    config: RunConfig
    data: str
    code: str
    system: str

    @property
    def key(self) -> str:
        """Under which its record is kept."""
        return run_key(_plain(self.config), self.data, self.code)


@dataclass(frozen=True)
class Grid:
    """Runs to make, and what is known of the corpora they are on.

    Attributes:
        profile: "quick" or "full".
        runs: in the order in which they are made.
        cards: facts about each corpus, by key (see ``Corpus.card``).
        absent: how to get each corpus that was asked for and is not here, by key.
    """

    profile: str
    runs: tuple[Run, ...]
    cards: Mapping[str, dict]
    absent: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Runs:
    """Records of a grid.

    Attributes:
        grid: what was asked.
        records: those there are, in the grid's order, each with the name of its ``system``.
        missing: runs without a record.
        older: keys of records made by other code or from other data than today's.
        notes: files that are no records of this version.
    """

    grid: Grid
    records: tuple[dict, ...]
    missing: tuple[Run, ...]
    older: tuple[str, ...]
    notes: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """One row a run: corpus, system, model, options, split, seed, test accuracy and UA, parameters, seconds, key."""
        return pd.DataFrame([_row(record) for record in self.records], columns=list(_COLUMNS))

    def of(self, **wanted: object) -> list[dict]:
        """Records of these values, of the configuration or ``system``: ``runs.of(corpus="fsdd:digit", system="caps")``."""
        known = ["system", *(field.name for field in fields(RunConfig))]
        sought = {choose(name, known, "field of a run"): value for name, value in wanted.items()}
        defaults = {f.name: f.default for f in fields(RunConfig)}
        facts = [{**defaults, **record["config"], "system": record["system"]} for record in self.records]
        sought = json.loads(json.dumps(sought))  # records hold lists for tuples
        return [r for r, f in zip(self.records, facts, strict=True) if all(f[n] == v for n, v in sought.items())]


_COLUMNS = {
    "corpus": lambda r: r["config"]["corpus"],
    "system": lambda r: r["system"],
    "model": lambda r: r["config"]["model"],
    "options": lambda r: ", ".join(f"{name}={value}" for name, value in r["config"]["options"]),
    "split": lambda r: r["config"]["split"],
    "seed": lambda r: r["config"]["seed"],
    "accuracy": lambda r: r["test"]["accuracy"],
    "unweighted_accuracy": lambda r: r["test"]["unweighted_accuracy"],
    "validation_accuracy": lambda r: r["validation"]["accuracy"],
    "train_accuracy": lambda r: r["train"]["accuracy"],
    "chosen_epoch": lambda r: r["chosen_epoch"],
    "parameters": lambda r: r["parameters"],
    "train_clips": lambda r: r["data"]["clips"]["train"],
    "test_clips": lambda r: r["data"]["clips"]["test"],
    "seconds": lambda r: r["provenance"]["seconds"],
    "key": lambda r: r["key"],
}


def _row(record: dict) -> dict:
    return {name: value(record) for name, value in _COLUMNS.items()}


def reports() -> Path:
    """Where reports and records go: ``$CAPSLIB_REPORTS``, by default ``reports/`` of the checkout."""
    named = os.environ.get("CAPSLIB_REPORTS")
    return Path(named).expanduser().resolve() if named else paths.root() / "reports"


def accepted() -> Path:
    """Quick records that were looked at and committed; the notebooks in git show these."""
    return paths.root() / "data" / "accepted" / "quick"


def store(profile: str, records: str = "accepted") -> Store:
    """The records of a profile.

    Args:
        profile: "quick" or "full".
        records: "accepted" reads the committed ones, then this machine's; "fresh" only this machine's. The full
            profile's are committed where they are made, so there it makes no difference.
    """
    own = reports() / choose(profile, PROFILES, "profile") / "records"
    choose(records, ("accepted", "fresh"), "choice of records")
    return Store((accepted() / "records", own) if profile == "quick" and records == "accepted" else (own,))


def current_code(*model: str) -> str:
    """Version of the code that decides a run of this model, or of this model and its source's."""
    return code_version("capslib.training", *map(models.home, model))


def code_of(config: Mapping) -> str:
    """``current_code`` for the configuration of a record."""
    return current_code(config["model"], *([config["source"]["model"]] if "source" in config else []))


def _plain(config: RunConfig) -> dict:
    """As JSON gives it back."""
    return json.loads(json.dumps(config.described()))


def _card(key: str, profile: str) -> dict:
    """Facts about a corpus: from its recordings, or as they were when the profile's records were made."""
    source, task = corpora.parse(key)
    key = f"{source.name}:{task}"
    kept = reports() / profile / "corpora" / f"{key.replace(':', '-')}.json"
    if corpora.find(key) is None and kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    return corpora.load(key).card()


def grid(
    corpus: Sequence[str],
    model: Sequence[str | System] | Mapping[str, System],
    profile: str = "quick",
    seeds: Iterable[int] | None = None,
    folds: int | None = None,
    **changes: object,
) -> Grid:
    """All combinations of corpora, their splits, models and seeds.

    Args:
        corpus: keys; those not here are listed in ``absent``, with how to get them.
        model: names, or systems: a model with options that differ from its defaults, and perhaps fields of ``RunConfig``
            that differ from the profile's; or a mapping that names such systems: ``{"5 passes": ("caps",
            {"num_iterations": 5}), "untrained": ("caps", {}, {"epochs": 0})}``. A source takes the run's seed.
        profile: "quick" or "full": how many epochs, seeds and folds (``PROFILES``).
        seeds: instead of the profile's.
        folds: the first so many of each corpus, if that is fewer than the profile's.
        changes: fields of ``RunConfig``, for all runs.
    """
    budgets = PROFILES[choose(profile, PROFILES, "profile")]
    seeds = None if seeds is None else list(seeds)
    systems = _systems(model)
    for name in {*changes, *(name for *_, own in systems.values() for name in own)}:
        choose(name, [field.name for field in fields(RunConfig)], "field of a run")
    cards, absent, runs = {}, {}, []
    for key in corpus:
        source, task = corpora.parse(key)
        full_key = f"{source.name}:{task}"
        if corpora.find(key) is None and not (reports() / profile / "corpora" / f"{source.name}-{task}.json").is_file():
            absent[full_key] = source.how_to_get
            continue
        card = cards[full_key] = _card(full_key, profile)
        budget = budgets.get(source.name, budgets[""])
        for split in list(card["splits"])[: budget.max_splits][:folds]:
            for system, (name, options, own) in systems.items():
                config = RunConfig(
                    corpus=full_key,
                    split=split,
                    model=name,
                    options=tuple(sorted(options.items())),
                    epochs=budget.epochs,
                    batch_size=budget.batch_size,
                    max_train_clips=budget.max_train_clips,
                )
                config = replace(config, **changes, **own)
                data, code = card["splits"][split]["fingerprint"], current_code(name)
                if config.source is not None:
                    origins = _card(config.source.corpus, profile)["splits"]
                    origin = origins[choose(config.source.split, origins, f"fold of {config.source.corpus}")]
                    data, code = f"{data}+{origin['fingerprint']}", current_code(name, config.source.model)
                for seed in range(budget.seeds) if seeds is None else seeds:
                    source_run = config.source and replace(config.source, seed=seed)
                    runs.append(Run(replace(config, seed=seed, source=source_run), data, code, system))
    runs.sort(key=lambda run: run.config.seed)  # one complete round before the next seed
    return Grid(profile, tuple(runs), cards, absent)


def _systems(model: Sequence | Mapping) -> dict[str, tuple[str, Mapping[str, object], Mapping[str, object]]]:
    """Model, options and changes of each system, by name."""
    if not isinstance(model, Mapping):
        entries = [(entry,) if isinstance(entry, str) else entry for entry in model]
        words = [[name, *(f"{k}={v}" for part in rest for k, v in part.items())] for name, *rest in entries]
        model = {", ".join(word): entry for word, entry in zip(words, entries, strict=True)}
    return {system: (*entry, *({},) * (3 - len(entry))) for system, entry in model.items()}


def corpora_in(profile: str, wanted: str, multi_label: bool = False) -> list[str]:
    """Keys of the corpora that a notebook uses.

    Args:
        profile: "quick" or "full".
        wanted: "embedded"; "at hand" (quick: embedded ones and what real recordings there are; full: recordings only,
            and those whose records are committed); or keys, "fsdd, ased:emotion".
        multi_label: those with several labels a clip in place of those with one.
    """
    if wanted == "embedded":
        return corpora.at_hand(real=False, multi_label=multi_label)
    if wanted == "at hand":
        kept = [p.stem.replace("-", ":", 1) for p in sorted((reports() / profile / "corpora").glob("*.json"))]
        here = corpora.at_hand(embedded=profile == "quick", multi_label=multi_label)
        recorded = [key for key in kept if key not in here and _default_recordings(key, multi_label)]
        return sorted([*here, *recorded]) if profile == "full" else here
    keys = []
    for key in wanted.split(","):
        source, task = corpora.parse(key.strip())
        keys.append(f"{source.name}:{task}")
    return keys


def _default_recordings(key: str, multi_label: bool) -> bool:
    source, task = corpora.parse(key)
    default, about = next(iter(source.tasks.items()))
    return not corpora.is_embedded(key) and task == default and about.multi_label == multi_label


def first_line(profile: str, keys: Sequence[str]) -> str:
    """What a notebook says first: the profile, and which recordings it is about."""
    embedded = [key for key in keys if corpora.is_embedded(key)]
    real = [key for key in keys if key not in embedded]
    return (
        f"Profile {profile}. Embedded synthetic corpora: {', '.join(embedded) or 'none'}. "
        f"Real recordings: {', '.join(real) or 'none in this run'}."
    )


# Runs in threads of one process (a Dask worker has as many as cores) would share torch's generator of random numbers.
_ONE_RUN_A_PROCESS = threading.Lock()


def source_of(config: RunConfig) -> training.Transfer | None:
    """What a run's source gives for its corpus, if it has one; the source is trained first, once per machine.

    Raises:
        CapslibError: if the source does not fit the run, see ``training.check_source``.
    """
    source = config.source
    if source is None:
        return None
    training.check_source(config)
    fingerprint = corpora.load(source.corpus).split_fingerprint(source.split)
    key = run_key(_plain(source), fingerprint, current_code(source.model))
    weights = paths.cache() / "sources" / f"{key}.safetensors"
    results = weights.with_suffix(".json")
    if not (weights.is_file() and results.is_file()):  # both are written whole, the results last
        record = training.train(source, weights)
        shown = {name: record[name] for name in ("config", "chosen_epoch", "train", "validation", "test")}
        paths.write_text(results, json.dumps(shown))
    vectors = training.source_vectors(config, weights)
    return training.Transfer(vectors, json.loads(results.read_text(encoding="utf-8")))


def _make(run: Run, weights: Path | None) -> tuple[Run, dict | str]:
    """A record, or in one sentence why there is none; runs in a worker."""
    try:
        with _ONE_RUN_A_PROCESS:
            record = training.train(run.config, weights, source=source_of(run.config))
    except CapslibError as error:
        return run, str(error)
    except Exception as error:
        return run, f"{run.config.title()}: {type(error).__name__}: {error}"
    if record["data"]["fingerprint"] != run.data:
        return run, f"{run.config.title()}: the recordings changed while the grid was running: start it again"
    return run, json.loads(json.dumps({"schema": SCHEMA, "key": run.key, "code": run.code, **record}))


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
    shelf = store(grid.profile, records)
    folder = reports() / grid.profile
    todo = [job for job in grid.runs if shelf.get(job.key) is None]
    if train and todo:
        for key, card in grid.cards.items():
            card_file = folder / "corpora" / f"{key.replace(':', '-')}.json"
            paths.write_text(card_file, json.dumps(card, indent=1, sort_keys=True) + "\n")
        failures = []
        with executor(workers):
            jobs = (
                joblib.delayed(_make)(job, folder / "weights" / f"{job.key}.safetensors" if keep_weights else None)
                for job in todo
            )
            results = joblib.Parallel(return_as="generator_unordered")(jobs)
            try:
                for _, result in tqdm(results, total=len(todo), desc="training", unit="run", file=sys.stderr):
                    if isinstance(result, str):
                        failures.append(result)
                    else:
                        shelf.put(result)
            except BrokenProcessPool:
                raise CapslibError(
                    "a worker was killed, perhaps for want of memory; finished runs are kept: start again, with fewer "
                    "workers (CAPSLIB_WORKERS=1) if it happens twice"
                ) from None
        if failures:
            shown = "; ".join(dict.fromkeys(failures))
            raise CapslibError(f"{len(failures)} of {len(todo)} runs failed, the others are kept: {shown}")
    found, missing, older = [], [], []
    for job in grid.runs:
        record = shelf.get(job.key)
        if record is None and not train:
            record = shelf.older(_plain(job.config))
            if record is not None:
                older.append(record["key"])
        if record is None:
            missing.append(job)
        else:
            found.append(record | {"system": job.system})
    if grid.runs and not found:
        raise CapslibError(
            f"profile {grid.profile!r} has no record for any of the {len(grid)} runs: run `make reproduce` to make them"
        )
    return Runs(grid, tuple(found), tuple(missing), tuple(older), tuple(shelf.unreadable))
