"""How long a network's window capsules are along an utterance, and what one window hears of the one before (P1 sections 2.2 and
2.3, P2 sections IV-B and IV-C)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from capslib import models, training
from capslib.errors import CapslibError
from capslib.layers import RecurrentCapsules, SequentialCapsules
from capslib.models.p2_parts import CapsuleBranch
from capslib.training import Part

VARYING = 1e-5  # a deviation of lengths below this is rounding in float32


@torch.inference_mode()
def window_lengths(model: models.AudioModel, part: Part) -> dict:
    """Lengths of the window capsules of every clip, and how they change from window to window.

    Args:
        model: CNN_SeqCap, CNN_RecCap, or one that has such a branch.
        part: test clips.
    Returns:
        length, over all windows and capsules, and full, the share of them that are longer than 0.99; within, the deviation of
        a capsule's length over the windows of a clip, and between, that of its mean over the clips; likeness, the cosine of the
        window capsules of one window and of the next; loudness, the correlation over a clip's windows of the longest capsule's
        length with the window's mean log power, over the clips where it deviates by ``VARYING`` or more (None where there is
        none): means over capsules and over the clips with at least four windows, without the first window, in which recurrent
        capsules hear nothing before. clip, the longest one: lengths (windows x capsules), frames (middle of each window),
        loudness, target and predicted.
    Raises:
        CapslibError: if the model has no window capsules, or no clip has four windows.
    """
    branch = next((m for m in model.modules() if isinstance(m, CapsuleBranch)), None)
    if branch is None:
        raise CapslibError(f"{type(model).__name__} has no window capsules: choose CNN_SeqCap or CNN_RecCap")
    layer, step = branch.capsules, model.trunk.frames_a_step
    longest, shown = int(part.lengths.argmax()), {}
    all_lengths, within, means, likeness, correlations = [], [], [], [], []
    for index in range(len(part)):
        features, lengths, target = part.batch([index], torch.device("cpu"))
        vectors = _vectors(model, layer, features, lengths)
        found = vectors.norm(dim=-1)  # (N, capsules)
        power = features[0].double().mean(-1)
        starts = [n * layer.shift * step for n in range(len(found))]
        loudness = torch.stack([power[start : start + layer.window * step].mean() for start in starts])
        if index == longest:
            shown = {
                "lengths": _rounded(found),
                "frames": [start + layer.window * step / 2 for start in starts],
                "loudness": _rounded(loudness),
                "target": int(target[0]),
                "predicted": int(model(features, lengths).argmax()),
            }
        if len(found) < 4:
            continue
        vectors, found, loudness = vectors[1:], found[1:], loudness[1:]
        all_lengths.append(found.flatten())
        means.append(found.mean(0))
        within.append(found.std(0, correction=0).mean())
        flat = vectors.flatten(1)
        likeness.append(functional.cosine_similarity(flat[1:], flat[:-1], dim=-1).mean())
        if found.max(-1).values.std(correction=0) >= VARYING:
            correlations.append(_correlation(found.max(-1).values, loudness))
    if not means:
        raise CapslibError("no test clip has four windows: choose a smaller window or shift")
    return {
        "length": round(float(torch.cat(all_lengths).mean()), 4),
        "full": round(float((torch.cat(all_lengths) > 0.99).double().mean()), 4),
        "within": round(float(torch.stack(within).mean()), 6),
        "between": round(float(torch.stack(means).std(0, correction=0).mean()), 6),
        "likeness": round(float(torch.stack(likeness).mean()), 4),
        "loudness": round(float(torch.stack(correlations).mean()), 4) if correlations else None,
        "clip": shown,
    }


def without_recurrence(model: models.AudioModel, part: Part) -> dict:
    """What a network with recurrent capsules tells if no window hears the one before: its matrix W^o set to zero.

    Args:
        model: CNN_RecCap, or one that has such a branch.
        part: test clips.
    Returns:
        changed, the share of clips that are told as another class; accuracy as trained, and without.
    Raises:
        CapslibError: if the model has no recurrent capsules.
    """
    deaf = copy.deepcopy(model)
    layer = next((m for m in deaf.modules() if isinstance(m, RecurrentCapsules)), None)
    if layer is None:
        raise CapslibError(f"{type(model).__name__} has no recurrent capsules: choose CNN_RecCap")
    torch.nn.init.zeros_(layer.recurrent.weight)
    cpu = torch.device("cpu")
    told, others = (training.predict(one, part, cpu).argmax(-1) for one in (model, deaf))
    right = (told == part.targets, others == part.targets)
    shares = {"changed": told != others, "accuracy": right[0], "without": right[1]}
    return {name: round(float(values.double().mean()), 4) for name, values in shares.items()}


def _vectors(model: models.AudioModel, layer: SequentialCapsules, features: Tensor, lengths: Tensor) -> Tensor:
    """Window capsules of one clip: (1, T, bins), (1,) -> (N, capsules, features), float64."""
    maps, steps = model.trunk(model.prepared(features, lengths), lengths)
    return layer.window_vectors(maps, steps)[0].double()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, 0 where one of them is constant: (n,), (n,) -> scalar."""
    a, b = a - a.mean(), b - b.mean()
    spread = a.norm() * b.norm()
    return (a * b).sum() / spread if spread > 1e-12 else torch.zeros((), dtype=a.dtype)


def _rounded(values: Tensor) -> list:
    return torch.round(values, decimals=4).tolist()
