"""What a perturbation of the input does to a network's vector of a clip (P0 section 6.1, Figs. 3 and 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from capslib import models, training
from capslib.errors import CapslibError
from capslib.figures.style import grid, not_yet, save
from capslib.models.p0 import CapsNet
from capslib.probes.parts import Probe, train_and_test
from capslib.training import Part

COLUMNS = {
    "two components, all": (lambda result: two(result), 0.0, 1.0),
    "two components, within a clip": (lambda result: sum(result["within"][:2]), 0.0, 1.0),
    "variance between levels": ("level_share", 0.0, 1.0),
    "level read back (r)": ("probe", -1.0, 1.0),
    "more or less (chance 0.5)": ("side", 0.0, 1.0),
}
FACTS = {"numbers": "features"}
_LEVELS = ["#2166ac", "#67a9cf", "#404040", "#f4a582", "#b2182b"]


def components(model: models.AudioModel, train: Part, test: Part, num_components: int = 5) -> dict:
    """Principal components of a clip's vector at all levels of a perturbation, class by class.

    Args:
        model: whose vector is the true class' capsule of a capsule network, of others the whole embedding.
        train, test: clips at each level.
        num_components: of each analysis.
    Returns:
        Means over the classes, of the test clips: pooled, explained variance of the first components over clips and
        levels together; within, the same after each clip's mean over its levels is taken off; level_share, how much of
        the pooled variance lies between the means of the levels; probe, the correlation of a test clip's level with
        what a linear map fitted on the training clips reads, and side, how often it sets more apart from less than the
        middle level. features of a vector; scatter, one class' clips in its first two components: levels x clips x 2,
        with class and levels.
    Raises:
        CapslibError: for clips without perturbations.
    """
    if not test.variants:
        raise CapslibError("these clips were not perturbed: give the runs `perturb` with a kind and levels")
    levels = np.array(test.levels)
    numbers = {"pooled": [], "within": [], "level_share": [], "probe": [], "side": []}
    seen, learnt = _vectors(model, test), _vectors(model, train)  # (levels, clips, E)
    example = {}
    for k in test.targets.unique().tolist():
        x = seen[:, (test.targets == k).numpy()]
        flat, own = x.reshape(-1, x.shape[-1]), x - x.mean(0, keepdims=True)
        numbers["pooled"].append(_explained(flat, num_components))
        numbers["within"].append(_explained(own.reshape(flat.shape), num_components))
        total = ((flat - flat.mean(0)) ** 2).sum()
        between = x.shape[1] * ((x.mean(1) - flat.mean(0)) ** 2).sum()
        numbers["level_share"].append(between / max(total, 1e-30))
        fitted = learnt[:, (train.targets == k).numpy()]
        probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
        probe.fit(fitted.reshape(-1, x.shape[-1]), np.repeat(levels, fitted.shape[1]))
        predicted = probe.predict(flat).reshape(len(levels), -1)
        wanted = np.broadcast_to(levels[:, None], predicted.shape)
        spread = predicted.std() * wanted.std()
        numbers["probe"].append(
            ((predicted - predicted.mean()) * (wanted - wanted.mean())).mean() / spread if spread > 1e-12 else 0.0
        )
        aside = levels != np.median(levels)
        numbers["side"].append(((predicted > np.median(levels)) == (wanted > np.median(levels)))[aside].mean())
        if not example:
            _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
            example = {"class": k, "points": np.round((x - flat.mean(0)) @ axes[:2].T, 4).tolist()}
    means = {name: np.round(np.mean(values, 0), 4).tolist() for name, values in numbers.items()}
    return means | {"features": seen.shape[-1], "levels": levels.tolist(), "scatter": example}


def _vectors(model: models.AudioModel, part: Part) -> np.ndarray:
    """(levels, clips, E), float64."""

    def vectors(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return model.embed(features, lengths)

    levels = []
    with torch.inference_mode():
        for clips in part.variants:
            embedded = training.map_clips(vectors, Part(clips, part.targets), torch.device("cpu"))
            if isinstance(model, CapsNet):
                capsules = embedded.unflatten(1, (int(model.capsules.matrices.shape[-3]), -1))
                embedded = capsules[torch.arange(len(capsules)), part.targets]
            levels.append(embedded.double().numpy())
    return np.stack(levels)


def _explained(x: np.ndarray, num_components: int) -> list[float]:
    """Shares of the variance of the first principal components: (n, E) -> (num_components,), zero where none is."""
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    shares = variances / max(variances.sum(), 1e-30)
    return np.pad(shares[:num_components], (0, max(0, num_components - len(shares)))).tolist()


def two(result: Mapping) -> float:
    """Variance that two principal components explain."""
    return sum(result["pooled"][:2])


def draw(results: Sequence[Mapping], networks: Sequence[str], name: str, out: Path) -> None:
    """One class' clips at every level of each perturbation, in the plane of their first two principal components.

    The results are of ``components``, of systems called "network, perturbation": the first of each system is drawn, in
    one row for each network. For ``name`` and ``out`` see ``figures.save``.
    """
    if not results:
        return not_yet()
    first = {result["system"]: result for result in reversed(results)}  # of the first fold and seed
    kinds = list(dict.fromkeys(result["system"].split(", ")[1] for result in results))
    figure, axes = grid(len(networks) * len(kinds), len(kinds), 3.4, 2.9)
    rows = []
    for axis, (network, kind) in zip(axes.flat, [(n, k) for n in networks for k in kinds], strict=True):
        result = first.get(f"{network}, {kind}")
        if result is None:
            axis.set_title(f"{network}, {kind}: not run yet", fontsize=9)
            axis.set_axis_off()
            continue
        points, levels = np.array(result["scatter"]["points"]), result["levels"]
        for place, (level, clips) in enumerate(zip(levels, points, strict=True)):
            colour = _LEVELS[round(place * (len(_LEVELS) - 1) / max(1, len(levels) - 1))]
            axis.scatter(*clips.T, s=9, color=colour, label=f"{level:g}", alpha=0.8, linewidths=0)
            rows += [{"network": network, "perturbation": kind, "level": level, "x": x, "y": y} for x, y in clips]
        explained = 100 * two(result)
        axis.set_title(f"{network}, {kind}: {explained:.0f}% in two of {result['features']}", fontsize=9)
        axis.legend(fontsize=6, loc="best", handletextpad=0.1, borderpad=0.1)
    save(figure, name, pd.DataFrame(rows), out)


PROBES = {"components": Probe(components, train_and_test)}
