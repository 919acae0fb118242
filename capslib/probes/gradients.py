"""What in a spectrogram a decision depends on: its gradient with respect to the input (P2 section VI-E, Fig. 8)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from capslib import models
from capslib.figures.style import grid, image, not_yet, save
from capslib.probes.parts import Probe, mean_of, rounded, single_clips, test_part
from capslib.training import Part

_DRAWN = (120, 96)  # frames and bins of a map that is stored
COLUMNS = {
    "correlation with the spectrogram": ("correlation", -1.0, 1.0),
    "share on the loudest tenth (0.1: even)": ("loudest", 0.0, 1.0),
    "share on its own largest tenth": ("largest", 0.0, 1.0),
}


def input_gradients(model: models.AudioModel, part: Part) -> dict:
    """Size of the gradient of the predicted class' score in the input, and whether it follows the spectrogram.

    The input is what the network reads, the spectrogram with zero mean and unit variance in each bin of frequency.

    Args:
        model: of spectrograms.
        part: test clips.
    Returns:
        correlation, of the gradient's size with the spectrogram; loudest, the share of the gradient that lies on the
        loudest tenth of the cells (0.1 if it lies evenly); largest, the share on its own largest tenth (how narrow it
        is): means over the clips. clip, one of middling length, which is the same for every system: spectrogram and
        gradient (divided by its largest), frames x bins, averaged down, target, predicted and frames before that.
    """
    middling = int(part.lengths.argsort(kind="stable")[len(part) // 2])
    correlations, loudest, largest, example = [], [], [], {}
    for index, (features, lengths, target) in enumerate(single_clips(part)):
        gradient, predicted = _gradient(model, features, lengths)
        spectrogram = model.standardize(features)[0].double()
        tenth = max(1, gradient.numel() // 10)
        size, level = gradient.flatten(), spectrogram.flatten()
        total = size.sum().clamp_min(1e-30)
        correlations.append(torch.corrcoef(torch.stack([size, level]))[0, 1].nan_to_num())
        loudest.append(size[level.topk(tenth).indices].sum() / total)
        largest.append(size.topk(tenth).values.sum() / total)
        if index == middling:
            drawn = {"spectrogram": spectrogram, "gradient": gradient / gradient.max().clamp_min(1e-30)}
            example = {name: _smaller(values) for name, values in drawn.items()}
            example |= {"target": int(target[0]), "predicted": predicted}
            example |= {"frames": len(gradient), "bins": gradient.shape[1]}
    means = {"correlation": correlations, "loudest": loudest, "largest": largest}
    return {name: mean_of(values) for name, values in means.items()} | {"clip": example}


def _gradient(model: models.AudioModel, features: Tensor, lengths: Tensor) -> tuple[Tensor, int]:
    """Its size (T, bins), float64, and the predicted class, of one clip (1, T, bins)."""
    model.eval()
    with torch.enable_grad():
        x = features.clone().requires_grad_()
        scores = model(x, lengths)[0]
        predicted = int(scores.argmax())
        (gradient,) = torch.autograd.grad(scores[predicted], x)
    return (gradient[0] / model.standardize.scale).abs().double(), predicted


def _smaller(values: Tensor) -> list:
    size = [min(have, most) for have, most in zip(values.shape, _DRAWN, strict=True)]
    return rounded(functional.adaptive_avg_pool2d(values[None], size)[0], 2)


def draw(results: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """A spectrogram, and below it the size of each system's gradient there; one column per corpus. The results are of
    ``input_gradients``: the first of each corpus and system is drawn. For ``name`` and ``out`` see ``figures.save``."""
    if not results:
        return not_yet()
    first = {(result["corpus"], result["system"]): result for result in reversed(results)}
    keys, systems = (list(dict.fromkeys(result[what] for result in results)) for what in ("corpus", "system"))
    figure, axes = grid((1 + len(systems)) * len(keys), len(keys), 5.0, 2.2, sharex="col", sharey="col")
    parts = []
    for column, key in enumerate(keys):
        clips = {system: first[key, system]["clip"] for system in systems if (key, system) in first}
        clip = next(iter(clips.values()))
        extent = (0, clip["frames"] / 100, 0, clip["bins"] / 100)  # frames of 10 ms, bins of 10 Hz
        drawn = {f"{key}: {classes[clip['target']]}": (clip["spectrogram"], "magma")}
        drawn |= {
            f"{system}, predicted {classes[one['predicted']]}": (one["gradient"], "viridis")
            for system, one in clips.items()
        }
        for axis, (title, (cells, colours)) in zip(axes[:, column], drawn.items(), strict=False):
            top = np.percentile(cells, 99.5)
            image(axis, cells, title, extent=extent, cmap=colours, vmax=top, interpolation="none")
            wide = pd.DataFrame(cells).add_prefix("bin ")
            wide.insert(0, "what", f"{key}, {title}")
            parts.append(wide.rename_axis("frame").reset_index())
        axes[-1, column].set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz")
    save(figure, name, pd.concat(parts), out)


PROBES = {"input_gradients": Probe(input_gradients, test_part)}
