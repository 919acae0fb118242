"""What a trained network does with clips, measured once and stored as a small file beside the records.

A probe is a file here: the function that measures, the columns of its table, its figure. It needs weights, which are
not in git: without them the run is trained again, which gives the same ones on the same kind of machine.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
import pandas as pd

from capslib import corpora, keys, models, paths, statistics, study, training
from capslib.probes import averaged
from capslib.probes.parts import Probe, by
from capslib.study import Run, Runs

# All probes by the name of their function: the ``PROBES`` of each file here, which this imports as attributes.
PROBES: dict[str, Probe] = {
    name: probe
    for file in pkgutil.iter_modules(__path__)
    for name, probe in getattr(importlib.import_module(f"{__name__}.{file.name}"), "PROBES", {}).items()
}
Value = str | Callable[[Mapping], float | None]


def load(run: Run, profile: str) -> models.AudioModel:
    """The chosen model of a run, in evaluation mode; trained again where its weights are not on this machine."""
    weights = study.weights_file(profile, run.key)
    if not weights.is_file():
        study.train_run(run.config, weights)
    return training.restore(run.config, weights)


def code_of(config: Mapping, name: str) -> str:
    """Version of the code of a probe of a run of this configuration: all that its functions can reach. The
    configuration is as a record holds it; the probe is named as in ``PROBES``."""
    roots = [(function.__module__, function.__name__) for function in PROBES[name]]
    return keys.code_version(roots, {*keys.words(dict(config)), *models.words(config["model"])})


def run(
    runs: Runs, probe: Callable[..., dict], records: str = "accepted", train: bool = True, **wanted: object
) -> list[dict]:
    """Results of a probe for every run of these values that has a record, from their files where there are any.

    Args:
        runs: with their grid.
        probe: one of ``PROBES``; its name is that of the file.
        records: see ``study.store``.
        train: False to read files only.
        wanted: as for ``Runs.of``.
    Returns:
        One per run: corpus, split, seed, system and what the probe returned.
    """
    name, present = probe.__name__, {record["key"] for record in runs.of(**wanted)}
    folders = [folder.parent for folder in study.store(runs.grid.profile, records).folders]
    results = []
    for job in runs.grid.runs:
        if job.key not in present:
            continue
        code, file_name = code_of(job.config.described(), name), f"probes/{name}-{job.key}.json"
        stored = [json.loads(file.read_text("utf-8")) for folder in folders if (file := folder / file_name).is_file()]
        result = next((one for one in stored if one.get("code") == code), None)
        if result is None:
            if not train or corpora.find(job.config.corpus) is None:
                continue
            result = {"code": code} | probe(load(job, runs.grid.profile), *PROBES[name].given(job.config))
            paths.write_text(study.reports() / runs.grid.profile / file_name, json.dumps(result) + "\n")
        head = {"corpus": job.config.corpus, "split": job.config.split, "seed": job.config.seed, "system": job.system}
        results.append(head | result)
    return results


def averages(runs: Runs, pairs: Mapping[str, tuple[str, str]], records: str = "accepted", train: bool = True) -> Runs:
    """The runs, and behind them the averages of pairs of systems (see ``averaged``), from their probabilities.
    ``pairs`` has names of two systems, by the name of their average; for the rest see ``run``."""
    systems = dict.fromkeys(system for names in pairs.values() for system in names)
    results = [run(runs, averaged.probabilities, records, train, system=system) for system in systems]
    return averaged.averaged(runs, pairs, chain(*results))


def table(
    results: Sequence[Mapping],
    columns: Mapping[str, tuple[Value, float, float]],
    facts: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Numbers of a probe, one row per corpus and system: mean and 95% interval over the folds.

    Args:
        results: from ``run``.
        columns: by title, the name of a number, or a function of a result (None: it has none), and its bounds.
        facts: by title, the name of what is the same in all results of a system.
    """
    rows, facts = [], facts or {}
    for (corpus, system), some in by(results, "corpus", "system").items():
        row = {"corpus": corpus, "system": system, "networks": len(some)}
        row |= {title: some[0][name] for title, name in facts.items()}
        for title, (value, *bounds) in columns.items():
            value = itemgetter(value) if isinstance(value, str) else value
            known = [(result["split"], value(result)) for result in some if value(result) is not None]
            row[title] = str(statistics.over_folds(known, tuple(bounds))) if known else ""
        rows.append(row)
    return pd.DataFrame(rows, columns=["corpus", "system", *facts, "networks", *columns])


def mean(results: Sequence[Mapping], value: Value) -> np.ndarray:
    """Mean over results of a number, or of a list number by number, by its name or from a function of a result."""
    value = itemgetter(value) if isinstance(value, str) else value
    return np.mean([value(result) for result in results], axis=0)
