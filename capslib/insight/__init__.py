"""What a trained network does with a clip: looked at once, kept as a small file beside the records.

A look needs weights, which are not in git: without them the run is trained again, which gives the same ones on the same kind
of machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from capslib import corpora, keys, models, paths, study, training
from capslib.insight.averaged import averaged, probabilities, test_units
from capslib.insight.coupling import couplings, rule_entropy
from capslib.insight.mixed import mixed_again, over_snr
from capslib.insight.perturbed import components
from capslib.insight.reconstructed import reconstructions
from capslib.study import Run, Runs
from capslib.training import Part, RunConfig, load_parts

__all__ = [
    "averaged",
    "averages",
    "components",
    "couplings",
    "load",
    "looks",
    "mean",
    "mean_of",
    "mixed_again",
    "over_snr",
    "probabilities",
    "reconstructions",
    "rule_entropy",
    "test_part",
    "test_units",
    "train_and_test",
    "two",
]


def load(run: Run, profile: str) -> models.AudioModel:
    """The chosen model of a run, in evaluation mode; trained again where its weights are not on this machine."""
    weights = study.reports() / profile / "weights" / f"{run.key}.safetensors"
    if not weights.is_file():
        training.train(run.config, weights, source=study.source_of(run.config))
    return training.restore(run.config, weights)


def test_part(config: RunConfig) -> tuple[Part]:
    """The test clips of a run; of one with a source, without what the source says of them."""
    return (load_parts(corpora.load(config.corpus), config)["test"],)


def train_and_test(config: RunConfig) -> tuple[Part, Part]:
    """The training and the test clips of a run."""
    parts = load_parts(corpora.load(config.corpus), config)
    return parts["train"], parts["test"]


def looks(
    runs: Runs,
    look: Callable[..., dict],
    records: str = "accepted",
    train: bool = True,
    given: Callable[[RunConfig], Sequence[Part]] = test_part,
    **wanted: object,
) -> list[dict]:
    """``look`` at the clips of every run of these values that has a record, from its file where there is one.

    Args:
        runs: with their grid.
        look: from a model and parts to numbers that JSON can hold; its name is that of the file.
        records: see ``study.store``.
        train: False to read files only.
        given: which parts; the test part by default.
        wanted: as for ``Runs.of``.
    Returns:
        One a run: corpus, split, seed, system and what the look returned.
    """
    shown = {record["key"] for record in runs.of(**wanted)}
    found = []
    for run in runs.grid.runs:
        if run.key not in shown:
            continue
        code = code_of(run.config.described(), look, given)
        name = f"insight/{look.__name__}-{run.key}.json"
        files = [folder / name for folder in _folders(runs.grid.profile, records)]
        kept = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        made = next((one for one in kept if one.get("code") == code), None)
        if made is None:
            if not train or corpora.find(run.config.corpus) is None:
                continue
            made = {"code": code} | look(load(run, runs.grid.profile), *given(run.config))
            paths.write_text(study.reports() / runs.grid.profile / name, json.dumps(made) + "\n")
        head = {"corpus": run.config.corpus, "split": run.config.split, "seed": run.config.seed, "system": run.system}
        found.append(head | made)
    return found


def code_of(config: Mapping, *functions: Callable) -> str:
    """Version of the code of a look at a run of this configuration: all that its functions can reach."""
    roots = [(function.__module__, function.__name__) for function in functions]
    return keys.code_version(roots, {*keys.words(config), *models.words(config["model"])})


def averages(runs: Runs, pairs: Mapping[str, tuple[str, str]], records: str = "accepted", train: bool = True) -> Runs:
    """The runs, and behind them the averages of pairs of systems (see ``averaged``), from looks at their probabilities.

    Args:
        runs: with their grid.
        pairs: names of two systems, by the name of their average.
        records, train: see ``looks``.
    """
    systems = dict.fromkeys(system for names in pairs.values() for system in names)
    found = [
        look for system in systems for look in looks(runs, probabilities, records, train, test_units, system=system)
    ]
    return averaged(runs, pairs, found)


def _folders(profile: str, records: str) -> list[Path]:
    return [folder.parent for folder in study.store(profile, records).folders]


def mean(found: list[Mapping], key: str) -> list[float]:
    """Mean of a list over looks."""
    return torch.tensor([look[key] for look in found], dtype=torch.float64).mean(0).tolist()


def two(look: Mapping) -> float:
    """Variance that two principal components explain, of a look at ``components``."""
    return sum(look["pooled"][:2])


def mean_of(found: list[Mapping], value: Callable[[Mapping], float]) -> float:
    """Mean of a number over looks."""
    return sum(map(value, found)) / len(found)
