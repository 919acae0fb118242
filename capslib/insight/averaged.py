"""Two trained systems as one: the plain average of their probabilities (P2 sections V-C and VI-F)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from capslib import corpora, models, training
from capslib.errors import CapslibError
from capslib.study import Runs
from capslib.training import Part, RunConfig, load_parts


def test_units(config: RunConfig) -> tuple[Part, list[str]]:
    """The test clips of a run, and the unit (the speaker) of each."""
    corpus = corpora.load(config.corpus)
    units = corpus.table.loc[list(corpus.split(config.split).test), "unit"]
    return load_parts(corpus, config)["test"], [str(unit) for unit in units]


def probabilities(model: models.AudioModel, part: Part, units: Sequence[str]) -> dict:
    """Probabilities of each clip, its class, and its unit: (clips, classes), (clips,), (clips,).

    Raises:
        CapslibError: for a model whose scores are lengths of capsules.
    """
    if model.loss == "margin":
        raise CapslibError(
            f"{type(model).__name__} gives lengths of capsules, not probabilities: average other systems"
        )
    found = training.predict(model, part, torch.device("cpu")).double().softmax(-1)
    told = [[round(value, 6) for value in row] for row in found.tolist()]
    return {"probabilities": told, "targets": part.targets.tolist(), "units": list(units)}


def averaged(runs: Runs, pairs: Mapping[str, tuple[str, str]], found: Iterable[Mapping]) -> Runs:
    """The runs, and behind them a record for each fold and seed on which both systems of a pair were looked at.

    Nothing is trained for it. Its training accuracy is taken to be the lower one of its parts', its parameters their sum.

    Args:
        runs: of the parts.
        pairs: names of two systems, by the name of their average.
        found: from ``insight.looks(runs, probabilities, given=test_units)``.
    """
    looked = {(look["corpus"], look["split"], look["seed"], look["system"]): look for look in found}
    recorded = {
        (r["config"]["corpus"], r["config"]["split"], r["config"]["seed"], r["system"]): r for r in runs.records
    }
    made = []
    for name, parts in pairs.items():
        for place in dict.fromkeys(key[:3] for key in looked):
            if all((*place, part) in looked and (*place, part) in recorded for part in parts):
                looks, records = zip(*((looked[*place, part], recorded[*place, part]) for part in parts), strict=True)
                made.append(_averaged(name, looks, records))
    return replace(runs, records=(*runs.records, *made))


def _averaged(name: str, looks: Sequence[Mapping], records: Sequence[dict]) -> dict:
    mean = torch.tensor([look["probabilities"] for look in looks], dtype=torch.float64).mean(0)
    targets, predicted = torch.tensor(looks[0]["targets"]), mean.argmax(-1)
    right, units = (predicted == targets).tolist(), looks[0]["units"]
    learnt = min((record["train"] for record in records), key=lambda part: part["accuracy"])
    return {
        **records[-1],
        "system": name,
        "config": records[-1]["config"] | {"model": name},
        "key": "+".join(record["key"] for record in records),
        "parameters": sum(record["parameters"] for record in records),
        "train": learnt,
        "test": training.evaluate(mean.clamp_min(1e-12).log(), targets, nn.NLLLoss()),
        "confusion": confusion_matrix(targets, predicted, labels=range(mean.shape[1])).tolist(),
        "units": {
            unit: [sum(r for r, u in zip(right, units, strict=True) if u == unit), units.count(unit)]
            for unit in sorted(set(units))
        },
        "predictions": predicted.tolist(),
    }
