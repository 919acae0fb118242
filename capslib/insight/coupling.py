"""How the steps of a clip are coupled to the class capsules, pass by pass, and where in time."""

from __future__ import annotations

import torch
from torch import Tensor

from capslib import models, training
from capslib.errors import CapslibError
from capslib.layers import route
from capslib.models.p0 import CapsNet


@torch.inference_mode()
def couplings(model: models.AudioModel, part: training.Part, passes: int = 5, bins: int = 20) -> dict:
    """How P0's capsules are coupled, pass by pass, and where in time.

    Args:
        model: a ``CapsNet`` with dynamic routing.
        part: test clips.
        passes: routed so often with the same weights, whatever the number in training.
        bins: of a clip's relative time.
    Returns:
        entropy: for each pass, its mean over steps and clips, 1 where a step couples evenly; logit: likewise the largest
        routing logit of a clip, about the mean over the classes, mean over clips (0.1 moves a share by a tenth); changed: the
        share of clips that would be told otherwise after the first pass; by_time and energy_by_time: in each bin, the last
        pass' coupling to the true class and the first feature (log energy for MFCC-60), both standardized within a clip, mean
        over clips; correlation: of these two over a clip's steps, mean over the clips where it is defined; clip: one clip's
        coupling and energy.
    """
    _check(model)
    weight, entropy = model.capsules.matrices, torch.zeros(passes, dtype=torch.float64)
    logit, changed = torch.zeros(passes, dtype=torch.float64), torch.zeros(passes, dtype=torch.float64)
    curves, energies, correlations, shown = [], [], [], {}
    for index in range(len(part)):
        features, lengths, target = part.batch([index], torch.device("cpu"))
        steps, mask = model.trunk(model.standardize(features), lengths)
        told = []
        for n in range(1, passes + 1):
            capsules, coupling = route(steps, weight, n, mask=mask, return_coupling=True)
            logs = coupling[0].double().clamp_min(1e-12).log()
            entropy[n - 1] += evenness(coupling[0])
            logit[n - 1] += (logs - logs.mean(-1, keepdim=True)).abs().max()
            told.append(int(capsules.norm(dim=-1).argmax()))
            changed[n - 1] += told[-1] != told[0]
        of_class, energy = coupling[0, :, target[0]].double(), features[0, :, 0].double()
        curves.append(_by_time(of_class, bins))
        energies.append(_by_time(energy, bins))
        correlations.append(torch.corrcoef(torch.stack([of_class, energy]))[0, 1])
        if not shown:
            shown = {"coupling": _rounded(of_class), "energy": _rounded(energy), "target": int(target[0])}
    return {
        "entropy": _rounded(entropy / len(part)),
        "logit": _rounded(logit / len(part)),
        "changed": _rounded(changed / len(part)),
        "by_time": _rounded(torch.stack(curves).mean(0)),
        "energy_by_time": _rounded(torch.stack(energies).mean(0)),
        "correlation": round(float(torch.stack(correlations).nanmean()), 4),
        "clip": shown,
    }


@torch.inference_mode()
def rule_entropy(model: models.AudioModel, part: training.Part) -> dict:
    """How evenly the network's own rule couples the steps of a clip.

    Args:
        model: a ``CapsNet`` with any routing rule.
        part: test clips.
    Returns:
        entropy: of the couplings that the rule ends with, mean over steps and clips; 1 where a step couples evenly.
    """
    _check(model)
    layer, found = model.capsules, []
    for index in range(len(part)):
        features, lengths, _ = part.batch([index], torch.device("cpu"))
        steps, mask = model.trunk(model.standardize(features), lengths)
        _, coupling = layer.routing(steps, layer.matrices, mask=mask, return_coupling=True)
        found.append(evenness(coupling[0]))
    return {"entropy": round(float(torch.stack(found).mean()), 4)}


def evenness(coupling: Tensor) -> Tensor:
    """Entropy of each step's shares over its largest value, mean over the steps: (I, J) -> ()."""
    shares = coupling.double().clamp_min(1e-12)
    return -(shares * shares.log()).sum(-1).mean() / torch.tensor(float(shares.shape[1])).log()


def _check(model: models.AudioModel) -> None:
    if not isinstance(model, CapsNet):
        raise CapslibError(f"{type(model).__name__} has no couplings to look at: choose a capsule network")


def _by_time(values: Tensor, bins: int) -> Tensor:
    """Means of standardized values in bins of relative time: (T,) -> (bins,)."""
    standard = (values - values.mean()) / values.std(correction=0).clamp_min(1e-12)
    return torch.nn.functional.adaptive_avg_pool1d(standard[None], bins)[0]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
