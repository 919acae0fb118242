"""Where in a spectrogram a network looks: the gradient of its decision (P2 section VI-E, Fig. 8)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from capslib import models
from capslib.training import Part

_DRAWN = (120, 96)  # frames and bins of a map that is kept


def input_gradients(model: models.AudioModel, part: Part) -> dict:
    """Size of the gradient of the predicted class' score with respect to the input, and whether it follows the spectrogram.

    The input is what the network reads, the spectrogram with zero mean and unit variance in each bin of frequency.

    Args:
        model: of spectrograms.
        part: test clips.
    Returns:
        correlation, of the gradient's size with the spectrogram; loudest, the share of the gradient that lies on the loudest
        tenth of the cells (0.1 if it does not look); largest, the share on its own largest tenth (how narrow it looks):
        means over the clips. clip, one of middling length, which is the same for every system: spectrogram and gradient
        (divided by its largest), frames x bins, averaged down, target, predicted and frames before that.
    """
    middling = int(part.lengths.argsort(kind="stable")[len(part) // 2])
    correlations, loudest, largest, shown = [], [], [], {}
    for index in range(len(part)):
        features, lengths, target = part.batch([index], torch.device("cpu"))
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
            shown = {name: _smaller(values) for name, values in drawn.items()}
            shown |= {"target": int(target[0]), "predicted": predicted, "frames": len(gradient)}
            shown["bins"] = gradient.shape[1]
    means = {"correlation": correlations, "loudest": loudest, "largest": largest}
    return {name: round(float(torch.stack(values).mean()), 4) for name, values in means.items()} | {"clip": shown}


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
    return torch.round(functional.adaptive_avg_pool2d(values[None], size)[0], decimals=2).tolist()
