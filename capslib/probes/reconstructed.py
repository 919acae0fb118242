"""What the decoder reconstructs from a capsule (P0 section 5.4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from capslib import models
from capslib.figures.style import grid, image, not_yet, save
from capslib.models.p0 import DecodedCapsNet
from capslib.probes.parts import Probe, find_module, rounded, single_clips, train_and_test
from capslib.training import Part


@torch.inference_mode()
def reconstructions(model: models.AudioModel, train: Part, test: Part, clips: int = 3) -> dict:
    """Inputs and what the decoder writes for them, from the capsule of the class that the model predicts.

    Args:
        model: a ``DecodedCapsNet``.
        train: clips whose median at each frame is the reference, the constant that has the smallest error.
        test: clips; those with more frames than the decoder writes are counted and left out.
        clips: examples, of different classes.
    Returns:
        error: mean absolute error over the test clips' own frames, features between 0 and 1 by the training part's
        range;
        reference: that of the median training clip, without any knowledge of the clip; class_reference: that of the
        median training clip of the class that the model predicts, which knows no more of how it was said; left_out;
        shown: input and reconstruction (frames, features) of a few clips, with true and predicted class.
    Raises:
        CapslibError: for a model without a decoder.
    """
    find_module(model, DecodedCapsNet, "decoder: choose caps_decoder")
    errors, references, class_references, left_out, examples = [], [], [], 0, {}
    filled = torch.full((len(train), model.num_frames, len(model.low)), float("nan"))
    for place, clip in zip(filled, train.clips, strict=True):
        place[: len(clip)] = model.scaled(clip)
    overall = filled.nanmedian(0).values  # (frames, features), each over the clips that have the frame
    # A class whose clips are all shorter than some frame says nothing of it there.
    medians = {
        int(k): torch.where((own := filled[train.targets == k].nanmedian(0).values).isnan(), overall, own)
        for k in train.targets.unique()
    }
    for features, lengths, target in single_clips(test):
        if features.shape[1] > model.num_frames:
            left_out += 1
            continue
        capsules = model.capsule_vectors(features, lengths)
        predicted = capsules.norm(dim=-1).argmax(-1)
        errors.append(model.error(capsules, features, lengths, predicted).item())
        wanted = model.scaled(features)[0]
        for distances, median in ((references, overall), (class_references, medians.get(int(predicted), overall))):
            distances.append((median[: len(wanted)] - wanted).abs().mean().item())
        if len(examples) < clips and int(target) not in examples:
            written = model.reconstruct(capsules, predicted)[0, : len(wanted)]
            pair = {"input": rounded(wanted, 2), "reconstruction": rounded(written, 2)}
            examples[int(target)] = pair | {"predicted": int(predicted)}
    count = max(1, len(errors))
    return {
        "error": round(sum(errors) / count, 5),
        "reference": round(sum(references) / count, 5),
        "class_reference": round(sum(class_references) / count, 5),
        "left_out": left_out,
        "shown": {str(k): value for k, value in examples.items()},
    }


def draw(results: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """Scaled MFCCs of a few clips, and below them what the decoder writes from the predicted class' capsule. The
    results are of ``reconstructions``: the first is drawn. For ``name`` and ``out`` see ``figures.save``."""
    if not results or not results[0]["shown"]:
        return not_yet()
    result, shown = results[0], results[0]["shown"]
    figure, axes = grid(2 * len(shown), len(shown), 3.0, 1.9, sharey=True)
    figure.suptitle(f"{result['corpus']}, {result['split']}: {result['system']}", fontsize=9)
    rows = []
    for (target, pair), column in zip(shown.items(), axes.T, strict=True):
        label, difference = classes[int(target)], np.subtract(pair["input"], pair["reconstruction"])
        predicted = f"predicted {classes[pair['predicted']]}, MAE {np.abs(difference).mean():.3f}"
        titles = {"input": f"{label}: input", "reconstruction": predicted}
        for axis, (what, title) in zip(column, titles.items(), strict=True):
            image(axis, pair[what], title, vmin=0, vmax=1, cmap="magma")
            head = {"corpus": result["corpus"], "class": label, "what": what}
            rows += [
                {**head, "frame": t, "feature": f, "value": v}
                for t, frame in enumerate(pair[what])
                for f, v in enumerate(frame)
            ]
        column[1].set_xlabel("frame")
    axes[0, 0].set_ylabel("energy, MFCC 1-19")
    save(figure, name, pd.DataFrame(rows), out)


PROBES = {"reconstructions": Probe(reconstructions, train_and_test)}
