"""What a trained capsule network does with a clip: looked at once, kept as a small file beside the records.

A look needs weights, which are not in git: without them the run is trained again, which gives the same ones on the same kind
of machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from capslib import corpora, models, paths, study, training
from capslib.errors import CapslibError
from capslib.layers import route
from capslib.models.p0_capsnet import CapsNet
from capslib.records import source_version
from capslib.runs import Part, load_parts
from capslib.study import Run, Runs


def load(run: Run, profile: str) -> models.AudioModel:
    """The chosen model of a run, in evaluation mode; trained again where its weights are not on this machine."""
    weights = study.reports() / profile / "weights" / f"{run.key}.safetensors"
    if not weights.is_file():
        training.train(run.config, weights)
    return training.restore(run.config, weights)


def looks(
    runs: Runs,
    look: Callable[[models.AudioModel, Part], dict],
    records: str = "accepted",
    train: bool = True,
    **wanted: object,
) -> list[dict]:
    """``look`` at the test clips of every run of these values that has a record, from its file where there is one.

    Args:
        runs: with their grid.
        look: from a model and a part to numbers that JSON can hold; its name is that of the file.
        records: see ``study.store``.
        train: False to read files only.
        wanted: as for ``Runs.of``.
    Returns:
        One a run: corpus, split, seed, system and what the look returned.
    """
    shown, code = {record["key"] for record in runs.of(**wanted)}, source_version(look)
    found = []
    for run in runs.grid.runs:
        if run.key not in shown:
            continue
        name = f"insight/{look.__name__}-{run.key}.json"
        files = [folder / name for folder in _folders(runs.grid.profile, records)]
        kept = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        made = next((one for one in kept if one.get("code") == code), None)
        if made is None:
            if not train or corpora.find(run.config.corpus) is None:
                continue
            part = load_parts(corpora.load(run.config.corpus), run.config)["test"]
            made = {"code": code} | look(load(run, runs.grid.profile), part)
            paths.write_text(study.reports() / runs.grid.profile / name, json.dumps(made) + "\n")
        head = {"corpus": run.config.corpus, "split": run.config.split, "seed": run.config.seed, "system": run.system}
        found.append(head | made)
    return found


def _folders(profile: str, records: str) -> list[Path]:
    return [folder.parent for folder in study.store(profile, records).folders]


@torch.inference_mode()
def couplings(model: models.AudioModel, part: Part, passes: int = 5, bins: int = 20) -> dict:
    """How P0's capsules are coupled, pass by pass, and where in time.

    Args:
        model: a ``CapsNet`` with dynamic routing.
        part: test clips.
        passes: routed so often with the same weights, whatever the number in training.
        bins: of a clip's relative time.
    Returns:
        entropy: for each pass, its mean over steps and clips, 1 where a step couples evenly; by_time and energy_by_time: in
        each bin, the last pass' coupling to the true class and the first feature (log energy for MFCC-60), both standardized
        within a clip, mean over clips; correlation: of these two over a clip's steps, mean over the clips where it is
        defined; clip: one clip's coupling and energy.
    """
    if not isinstance(model, CapsNet):
        raise CapslibError(f"{type(model).__name__} has no couplings to look at: choose a capsule network")
    weight, entropy = model.capsules.matrices, torch.zeros(passes, dtype=torch.float64)
    curves, energies, correlations, shown = [], [], [], {}
    for index in range(len(part)):
        features, lengths, target = part.batch([index], torch.device("cpu"))
        steps, mask = model.trunk(model.standardize(features), lengths)
        for n in range(1, passes + 1):
            _, coupling = route(steps, weight, n, mask=mask, return_coupling=True)
            shares = coupling[0].double().clamp_min(1e-12)
            entropy[n - 1] += -(shares * shares.log()).sum(-1).mean() / torch.tensor(float(shares.shape[1])).log()
        of_class, energy = coupling[0, :, target[0]].double(), features[0, :, 0].double()
        curves.append(_by_time(of_class, bins))
        energies.append(_by_time(energy, bins))
        correlations.append(torch.corrcoef(torch.stack([of_class, energy]))[0, 1])
        if not shown:
            shown = {"coupling": _rounded(of_class), "energy": _rounded(energy), "target": int(target[0])}
    return {
        "entropy": _rounded(entropy / len(part)),
        "by_time": _rounded(torch.stack(curves).mean(0)),
        "energy_by_time": _rounded(torch.stack(energies).mean(0)),
        "correlation": round(float(torch.stack(correlations).nanmean()), 4),
        "clip": shown,
    }


def _by_time(values: Tensor, bins: int) -> Tensor:
    """Means of standardized values in bins of relative time: (T,) -> (bins,)."""
    standard = (values - values.mean()) / values.std(correction=0).clamp_min(1e-12)
    return torch.nn.functional.adaptive_avg_pool1d(standard[None], bins)[0]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def mean(found: list[Mapping], key: str) -> list[float]:
    """Mean of a list over looks."""
    return torch.tensor([look[key] for look in found], dtype=torch.float64).mean(0).tolist()
