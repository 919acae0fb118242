"""What the decoder makes of a capsule (P0 section 5.4)."""

from __future__ import annotations

import torch

from capslib import models
from capslib.errors import CapslibError
from capslib.models.p0 import DecodedCapsNet
from capslib.training import Part


@torch.inference_mode()
def reconstructions(model: models.AudioModel, train: Part, test: Part, clips: int = 3) -> dict:
    """Inputs and what the decoder writes for them, from the capsule of the class that the model predicts.

    Args:
        model: a ``DecodedCapsNet``.
        train: clips whose median at each frame is the reference, the constant that has the smallest error.
        test: clips; those with more frames than the decoder writes are counted and left out.
        clips: shown, of different classes.
    Returns:
        error: mean absolute error over the test clips' own frames, features between 0 and 1 by the training part's range;
        reference: that of the median training clip, without any knowledge of the clip; class_reference: that of the median
        training clip of the class that the model predicts, which knows no more of how it was said; left_out; shown: input and
        reconstruction (frames, features) of a few clips, with true and predicted class.
    """
    if not isinstance(model, DecodedCapsNet):
        raise CapslibError(f"{type(model).__name__} has no decoder: choose caps_decoder")
    errors, references, class_references, left_out, shown = [], [], [], 0, {}
    filled = torch.full((len(train), model.num_frames, len(model.low)), float("nan"))
    for place, clip in zip(filled, train.clips, strict=True):
        place[: len(clip)] = model.scaled(clip)
    overall = _median(filled)
    # A class whose clips are all shorter than some frame says nothing of it there.
    medians = {
        int(k): torch.where((own := _median(filled[train.targets == k])).isnan(), overall, own)
        for k in train.targets.unique()
    }
    for index in range(len(test)):
        features, lengths, target = test.batch([index], torch.device("cpu"))
        if features.shape[1] > model.num_frames:
            left_out += 1
            continue
        capsules = model.capsule_vectors(features, lengths)
        predicted = capsules.norm(dim=-1).argmax(-1)
        errors.append(model.error(capsules, features, lengths, predicted).item())
        wanted = model.scaled(features)[0]
        for kept, median in ((references, overall), (class_references, medians.get(int(predicted), overall))):
            kept.append((median[: len(wanted)] - wanted).abs().mean().item())
        if len(shown) < clips and int(target) not in shown:
            written = model.reconstruct(capsules, predicted)[0, : len(wanted)]
            pair = {"input": wanted, "reconstruction": written}
            told = {name: [[round(v, 2) for v in frame] for frame in x.tolist()] for name, x in pair.items()}
            shown[int(target)] = told | {"predicted": int(predicted)}
    count = max(1, len(errors))
    return {
        "error": round(sum(errors) / count, 5),
        "reference": round(sum(references) / count, 5),
        "class_reference": round(sum(class_references) / count, 5),
        "left_out": left_out,
        "shown": {str(k): value for k, value in shown.items()},
    }


def _median(clips: torch.Tensor) -> torch.Tensor:
    """Of each frame and feature, over the clips that have the frame: (clips, frames, features) -> (frames, features)."""
    return clips.nanmedian(0).values
