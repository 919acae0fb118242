"""Two trained systems as one: the plain average of their probabilities (P2 sections V-C and VI-F)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from capslib import corpora, models, training
from capslib.errors import CapslibError
from capslib.probes.parts import Probe, rounded
from capslib.study import Runs
from capslib.training import Part, RunConfig, load_parts


def test_units(config: RunConfig) -> tuple[Part, list[str]]:
    """The test clips of a run, and the unit (the speaker) of each."""
    corpus = corpora.load(config.corpus)
    units = corpus.table.loc[list(corpus.split(config.split).test), "unit"]
    return load_parts(corpus, config)["test"], [str(unit) for unit in units]


def probabilities(model: models.AudioModel, part: Part, units: Sequence[str]) -> dict:
    """Probabilities of each clip, its class, and its unit: (clips, classes), (clips,), (clips,). Raises CapslibError
    for a model whose scores are lengths of capsules."""
    if model.loss == "margin":
        raise CapslibError(
            f"{type(model).__name__} gives lengths of capsules, not probabilities: average other systems"
        )
    shares = training.predict(model, part, torch.device("cpu")).double().softmax(-1)
    return {"probabilities": rounded(shares, 6), "targets": part.targets.tolist(), "units": list(units)}


def averaged(runs: Runs, pairs: Mapping[str, tuple[str, str]], results: Iterable[Mapping]) -> Runs:
    """The runs, and behind them a record for each fold and seed of which both systems of a pair have probabilities.

    Nothing is trained for it. Its training accuracy is taken to be the lower one of its parts', its parameters their
    sum. ``pairs`` has names of two systems, by the name of their average; ``results`` are of
    ``probabilities``, with ``test_units``.
    """
    fields = ("corpus", "split", "seed")
    shares = {(*(result[field] for field in fields), result["system"]): result for result in results}
    recorded = {(*(r["config"][field] for field in fields), r["system"]): r for r in runs.records}
    means = []
    for name, parts in pairs.items():
        for place in dict.fromkeys(key[:3] for key in shares):
            keys = [(*place, part) for part in parts]
            if all(key in shares and key in recorded for key in keys):
                means.append(_averaged(name, [shares[key] for key in keys], [recorded[key] for key in keys]))
    return replace(runs, records=(*runs.records, *means))


def _averaged(name: str, results: Sequence[Mapping], records: Sequence[dict]) -> dict:
    mean = torch.tensor([result["probabilities"] for result in results], dtype=torch.float64).mean(0)
    targets, predicted = torch.tensor(results[0]["targets"]), mean.argmax(-1)
    right, units = (predicted == targets).tolist(), results[0]["units"]
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


PROBES = {"probabilities": Probe(probabilities, test_units)}
