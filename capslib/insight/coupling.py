"""How the steps of a clip are coupled to the class capsules, pass by pass, and where in time."""

from __future__ import annotations

import torch
from torch import Tensor

from capslib import models, training
from capslib.errors import CapslibError
from capslib.layers import route
from capslib.models.p0_capsnet import CapsNet


@torch.inference_mode()
def couplings(model: models.AudioModel, part: training.Part, passes: int = 5, bins: int = 20) -> dict:
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
