"""What a perturbation of the input does to the vector that a network makes of a clip (P0 section 6.1, Figs. 3 and 4)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from capslib import models, training
from capslib.errors import CapslibError
from capslib.models.p0 import CapsNet
from capslib.training import Part


def components(model: models.AudioModel, train: Part, test: Part, kept: int = 5) -> dict:
    """Principal components of a clip's vector at all levels of a perturbation, class by class.

    Args:
        model: whose vector is the true class' capsule of a capsule network, of others the whole embedding.
        train, test: clips at each level.
        kept: components.
    Returns:
        Means over the classes, of the test clips: pooled, explained variance of the first components over clips and levels
        together; within, the same after each clip's mean over its levels is taken off; level_share, how much of the pooled
        variance lies between the means of the levels; probe, the correlation of a test clip's level with what a linear
        map fitted on the training clips reads, and side, how often it tells more from less than the middle level. features of a vector;
        scatter, one class' clips in its first two components: levels x clips x 2, with class and levels.
    """
    if not test.variants:
        raise CapslibError("these clips were not perturbed: give the runs `perturb` with a kind and levels")
    levels = np.array(test.levels)
    found = {"pooled": [], "within": [], "level_share": [], "probe": [], "side": []}
    seen, learnt = _vectors(model, test), _vectors(model, train)  # (levels, clips, E)
    shown = {}
    for k in test.targets.unique().tolist():
        x = seen[:, (test.targets == k).numpy()]
        flat, own = x.reshape(-1, x.shape[-1]), x - x.mean(0, keepdims=True)
        found["pooled"].append(_explained(flat, kept))
        found["within"].append(_explained(own.reshape(flat.shape), kept))
        total = ((flat - flat.mean(0)) ** 2).sum()
        between = x.shape[1] * ((x.mean(1) - flat.mean(0)) ** 2).sum()
        found["level_share"].append(between / max(total, 1e-30))
        fitted = learnt[:, (train.targets == k).numpy()]
        probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
        probe.fit(fitted.reshape(-1, x.shape[-1]), np.repeat(levels, fitted.shape[1]))
        told = probe.predict(flat).reshape(len(levels), -1)
        wanted = np.broadcast_to(levels[:, None], told.shape)
        spread = told.std() * wanted.std()
        found["probe"].append(
            ((told - told.mean()) * (wanted - wanted.mean())).mean() / spread if spread > 1e-12 else 0.0
        )
        aside = levels != np.median(levels)
        found["side"].append(((told > np.median(levels)) == (wanted > np.median(levels)))[aside].mean())
        if not shown:
            _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
            shown = {"class": k, "points": np.round((x - flat.mean(0)) @ axes[:2].T, 4).tolist()}
    means = {name: np.round(np.mean(values, 0), 4).tolist() for name, values in found.items()}
    return means | {"features": seen.shape[-1], "levels": levels.tolist(), "scatter": shown}


def _vectors(model: models.AudioModel, part: Part) -> np.ndarray:
    """(levels, clips, E), float64."""

    def vectors(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return model.embed(features, lengths)

    found = []
    with torch.inference_mode():
        for clips in part.variants:
            embedded = training.map_clips(vectors, Part(clips, part.targets), torch.device("cpu"))
            if isinstance(model, CapsNet):
                capsules = embedded.unflatten(1, (int(model.capsules.matrices.shape[-3]), -1))
                embedded = capsules[torch.arange(len(capsules)), part.targets]
            found.append(embedded.double().numpy())
    return np.stack(found)


def _explained(x: np.ndarray, kept: int) -> list[float]:
    """Share of the variance of each of the first principal components: (n, E) -> (kept,), zeros where there are fewer."""
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    shares = variances / max(variances.sum(), 1e-30)
    return np.pad(shares[:kept], (0, max(0, kept - len(shares)))).tolist()
