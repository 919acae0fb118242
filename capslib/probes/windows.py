"""How long a network's window capsules are along an utterance (P1 sections 2.2 and 2.3, P2 sections IV-B and IV-C)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from capslib import models
from capslib.errors import CapslibError
from capslib.figures.style import PALETTE, grid, image, not_yet, save
from capslib.layers import SequentialCapsules
from capslib.models.p2_parts import CapsuleBranch
from capslib.probes.parts import Probe, by, find_module, mean_of, rounded, single_clips, test_part
from capslib.training import Part

VARYING = 1e-5  # a deviation of lengths below this is rounding in float32
COLUMNS = {
    "length": ("length", 0.0, 1.0),
    "share longer than 0.99": ("full", 0.0, 1.0),
    "deviation along an utterance, thousandths": (lambda result: 1000 * result["within"], 0.0, 1000.0),
    "deviation between utterances, thousandths": (lambda result: 1000 * result["between"], 0.0, 1000.0),
    "likeness of one window to the next (cosine)": ("likeness", -1.0, 1.0),
    "correlation of the longest with loudness": ("loudness", -1.0, 1.0),
}


@torch.inference_mode()
def window_lengths(model: models.AudioModel, part: Part) -> dict:
    """Lengths of the window capsules of every clip, and how they change from window to window.

    Args:
        model: CNN_SeqCap, CNN_RecCap, or one that has such a branch.
        part: test clips.
    Returns:
        length, over all windows and capsules, and full, the share of them that are longer than 0.99; within, the
        deviation of a capsule's length over the windows of a clip, and between, that of its mean over the clips;
        likeness, the cosine of the window capsules of one window and of the next; loudness, the correlation over a
        clip's windows of the longest capsule's length with the window's mean log power, over the clips where it
        deviates by ``VARYING`` or more (None where there is none): means over capsules and over the clips with at least
        four windows, without the first window, before which recurrent capsules have no other. clip, the longest one:
        lengths (windows x capsules), frames (middle of each window), loudness, target and predicted.
    Raises:
        CapslibError: if the model has no window capsules, or no clip has four windows.
    """
    branch = find_module(model, CapsuleBranch, "window capsules: choose CNN_SeqCap or CNN_RecCap")
    layer, step = branch.capsules, model.trunk.frames_a_step
    longest, example = int(part.lengths.argmax()), {}
    all_lengths, within, means, likeness, correlations = [], [], [], [], []
    for index, (features, lengths, target) in enumerate(single_clips(part)):
        vectors = _vectors(model, layer, features, lengths)
        norms = vectors.norm(dim=-1)  # (N, capsules)
        power = features[0].double().mean(-1)
        starts = [n * layer.shift * step for n in range(len(norms))]
        loudness = torch.stack([power[start : start + layer.window * step].mean() for start in starts])
        if index == longest:
            example = {
                "lengths": rounded(norms),
                "frames": [start + layer.window * step / 2 for start in starts],
                "loudness": rounded(loudness),
                "target": int(target[0]),
                "predicted": int(model(features, lengths).argmax()),
            }
        if len(norms) < 4:
            continue
        vectors, norms, loudness = vectors[1:], norms[1:], loudness[1:]
        all_lengths.append(norms.flatten())
        means.append(norms.mean(0))
        within.append(norms.std(0, correction=0).mean())
        flat = vectors.flatten(1)
        likeness.append(functional.cosine_similarity(flat[1:], flat[:-1], dim=-1).mean())
        if norms.max(-1).values.std(correction=0) >= VARYING:
            correlations.append(_correlation(norms.max(-1).values, loudness))
    if not means:
        raise CapslibError("no test clip has four windows: choose a smaller window or shift")
    every = torch.cat(all_lengths)
    return {
        "length": rounded(every.mean()),
        "full": rounded((every > 0.99).double().mean()),
        "within": mean_of(within, 6),
        "between": rounded(torch.stack(means).std(0, correction=0).mean(), 6),
        "likeness": mean_of(likeness),
        "loudness": mean_of(correlations) if correlations else None,
        "clip": example,
    }


def _vectors(model: models.AudioModel, layer: SequentialCapsules, features: Tensor, lengths: Tensor) -> Tensor:
    """Window capsules of one clip: (1, T, bins), (1,) -> (N, capsules, features), float64."""
    maps, steps = model.trunk(model.prepared(features, lengths), lengths)
    return layer.window_vectors(maps, steps)[0].double()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, 0 where one of them is constant: (n,), (n,) -> scalar."""
    a, b = a - a.mean(), b - b.mean()
    spread = a.norm() * b.norm()
    return (a * b).sum() / spread if spread > 1e-12 else torch.zeros((), dtype=a.dtype)


def draw(results: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """Lengths of the window capsules of one utterance, one column per system, and how loud each window is. The results
    are of ``window_lengths``: the first of each corpus and system is drawn; for ``name`` and ``out`` see
    ``figures.save``."""
    if not results:
        return not_yet()
    first = by(sorted(results, key=lambda result: result["corpus"]), "corpus", "system")
    figure, axes = grid(2 * len(first), len(first), 3.8, 1.9, sharex="col", height_ratios=[3, 2])
    rows = []
    everything = [v for (result, *_) in first.values() for window in result["clip"]["lengths"] for v in window]
    limits = {"vmin": min(everything), "vmax": max(everything)}  # lengths may all be close to one
    for ((corpus, system), (result, *_)), (above, below) in zip(first.items(), axes.T, strict=True):
        clip = result["clip"]
        lengths, seconds = np.array(clip["lengths"]), np.array(clip["frames"]) / 100  # frames of 10 ms
        half = (seconds[1] - seconds[0]) / 2 if len(seconds) > 1 else 0.1
        span = (seconds[0] - half, seconds[-1] + half, 0.5, lengths.shape[1] + 0.5)
        title = f"{system} on {corpus}\n{classes[clip['target']]}, predicted {classes[clip['predicted']]}"
        drawn = image(above, lengths, title, extent=span, cmap="viridis", interpolation="none", **limits)
        below.plot(seconds, clip["loudness"], "o-", markersize=3, color=PALETTE[1])
        below.set(xlabel="seconds")
        rows += [
            {"corpus": corpus, "system": system, "seconds": t, "capsule": k + 1, "length": v, "mean log power": power}
            for t, window, power in zip(seconds, lengths, clip["loudness"], strict=True)
            for k, v in enumerate(window)
        ]
    axes[0, 0].set_ylabel("window capsule")
    axes[1, 0].set_ylabel("mean log power")
    figure.colorbar(drawn, ax=axes[0, -1], label="length")
    save(figure, name, pd.DataFrame(rows), out)


PROBES = {"window_lengths": Probe(window_lengths, test_part)}
