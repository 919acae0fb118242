"""How the steps of a clip are coupled to the class capsules: by iteration, where in time, and by routing rule."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from capslib import models, training
from capslib.figures.style import PALETTE, band, grid, not_yet, save
from capslib.layers import route
from capslib.models.p0 import CapsNet
from capslib.probes.parts import Probe, by, find_module, mean_of, rounded, single_clips, test_part

COLUMNS = {"entropy (1: even)": ("entropy", 0.0, 1.0)}  # of rule_entropy


@torch.inference_mode()
def couplings(model: models.AudioModel, part: training.Part, num_iterations: int = 5, bins: int = 20) -> dict:
    """How P0's capsules are coupled, iteration by iteration, and where in time.

    Args:
        model: a ``CapsNet`` with dynamic routing.
        part: test clips.
        num_iterations: routed so often with the same weights, whatever the number in training.
        bins: of a clip's relative time.
    Returns:
        entropy: for each iteration, its mean over steps and clips, 1 where a step couples evenly; logit: likewise the
        largest routing logit of a clip, about the mean over the classes, mean over clips (0.1 moves a share by a
        tenth); changed: the share of clips that are predicted as another class than after the first iteration; by_time
        and energy_by_time: in each bin, the last iteration's coupling to the true class and the first feature (log
        energy for MFCC-60), both standardized within a clip, mean over clips; correlation: of these two over a clip's
        steps, mean over the clips where it is defined; clip: one clip's coupling and energy.
    Raises:
        CapslibError: for a model without capsules.
    """
    weight = _capsule_network(model).capsules.matrices
    entropy, logit, changed = (torch.zeros(num_iterations, dtype=torch.float64) for _ in range(3))
    curves, energies, correlations, example = [], [], [], {}
    for features, lengths, target in single_clips(part):
        steps, mask = model.trunk(model.standardize(features), lengths)
        predicted = []
        for n in range(1, num_iterations + 1):
            capsules, coupling = route(steps, weight, n, mask=mask, return_coupling=True)
            logs = coupling[0].double().clamp_min(1e-12).log()
            entropy[n - 1] += evenness(coupling[0])
            logit[n - 1] += (logs - logs.mean(-1, keepdim=True)).abs().max()
            predicted.append(int(capsules.norm(dim=-1).argmax()))
            changed[n - 1] += predicted[-1] != predicted[0]
        of_class, energy = coupling[0, :, target[0]].double(), features[0, :, 0].double()
        curves.append(_by_time(of_class, bins))
        energies.append(_by_time(energy, bins))
        correlations.append(torch.corrcoef(torch.stack([of_class, energy]))[0, 1])
        if not example:
            example = {"coupling": rounded(of_class), "energy": rounded(energy), "target": int(target[0])}
    return {
        "entropy": rounded(entropy / len(part)),
        "logit": rounded(logit / len(part)),
        "changed": rounded(changed / len(part)),
        "by_time": rounded(torch.stack(curves).mean(0)),
        "energy_by_time": rounded(torch.stack(energies).mean(0)),
        "correlation": rounded(torch.stack(correlations).nanmean()),
        "clip": example,
    }


@torch.inference_mode()
def rule_entropy(model: models.AudioModel, part: training.Part) -> dict:
    """How evenly the own rule of a ``CapsNet``, with any routing, couples the steps of a clip.

    Returns entropy, of the couplings that the rule ends with, mean over steps and test clips; 1 where a step couples
    evenly. Raises CapslibError for a model without capsules.
    """
    layer, entropies = _capsule_network(model).capsules, []
    for features, lengths, _ in single_clips(part):
        steps, mask = model.trunk(model.standardize(features), lengths)
        _, coupling = layer.routing(steps, layer.matrices, mask=mask, return_coupling=True)
        entropies.append(evenness(coupling[0]))
    return {"entropy": mean_of(entropies)}


def evenness(coupling: Tensor) -> Tensor:
    """Entropy of each step's shares over its largest value, mean over the steps: (I, J) -> ()."""
    shares = coupling.double().clamp_min(1e-12)
    return -(shares * shares.log()).sum(-1).mean() / torch.tensor(float(shares.shape[1])).log()


def _capsule_network(model: models.AudioModel) -> CapsNet:
    return find_module(model, CapsNet, "couplings to look at: choose a capsule network")


def _by_time(values: Tensor, bins: int) -> Tensor:
    """Means of standardized values in bins of relative time: (T,) -> (bins,)."""
    standard = (values - values.mean()) / values.std(correction=0).clamp_min(1e-12)
    return torch.nn.functional.adaptive_avg_pool1d(standard[None], bins)[0]


def draw(results: Sequence[Mapping], name: str, out: Path) -> None:
    """Entropy of the couplings by iteration, coupling to the true class over relative time, and one clip. The results
    are of ``couplings``; for ``name`` and ``out`` see ``figures.save``."""
    if not results:
        return not_yet()
    figure, axes = grid(3, 3, 3.6, 2.6)
    entropy, time, example = axes[0]
    parts = []
    for i, (key, some) in enumerate(by(results, "corpus").items()):
        for axis, what in ((entropy, "entropy"), (time, "by_time")):
            lines = np.array([result[what] for result in some])
            count = lines.shape[1]
            x = np.arange(count) + 1 if what == "entropy" else (np.arange(count) + 0.5) / count
            mean = band(axis, x, lines, "o-", color=PALETTE[i], label=key, markersize=3)
            parts.append(pd.DataFrame({"corpus": key, "what": what, "x": x, "mean": mean}))
    clip = results[0]["clip"]
    for what, colour in (("coupling", PALETTE[0]), ("energy", PALETTE[1])):
        values = np.array(clip[what])
        example.plot((values - values.mean()) / max(values.std(), 1e-9), color=colour, label=what)
    lowest = min(min(result["entropy"]) for result in results)
    entropy.set(xlabel="iteration", ylabel="entropy (1: even)", ylim=(min(0.9, lowest - 0.02), 1.005))
    time.set(xlabel="relative time", ylabel="coupling to the\ntrue class (standardized)")
    example.set(xlabel="step", title=f"one clip of {results[0]['corpus']}", ylabel="standardized")
    entropy.legend(fontsize=7)
    example.legend(fontsize=7)
    save(figure, name, pd.concat(parts), out)


PROBES = {"couplings": Probe(couplings, test_part), "rule_entropy": Probe(rule_entropy, test_part)}
