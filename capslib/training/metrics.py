"""Losses, decisions and what they are worth: loss, accuracy, recalls, confusion matrix."""

from collections.abc import Callable

import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from capslib import corpora
from capslib.layers import MarginLoss

# A model's ``loss`` -> its criterion, with one label per clip.
LOSSES: dict[str, Callable[[], nn.Module]] = {"cross_entropy": nn.CrossEntropyLoss, "margin": MarginLoss}
# Several labels per clip: criterion, and the score above which a class is present (a probability, or a capsule's
# length, of one half). False alarms weigh as much as misses (P0 section 5.5).
MULTI_LABEL: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "cross_entropy": (nn.BCEWithLogitsLoss, 0.0),
    "margin": (lambda: MarginLoss(down_weighting=1.0), 0.5),
}


def decide(scores: Tensor, threshold: float | None = None) -> Tensor:
    """Class indices (clips,), or with a threshold which classes are present, bool (clips, classes)."""
    return scores.argmax(-1) if threshold is None else scores > threshold


def evaluate(scores: Tensor, targets: Tensor, loss: nn.Module, threshold: float | None = None) -> dict[str, float]:
    """Results on one part of a split, from scores (clips, classes) and targets, indices or multi-hot (clips, classes).

    Returns:
        loss; accuracy (WA of P1/P2); unweighted_accuracy (mean recall over the classes that occur). With several labels
        per clip and a threshold (see ``decide``), a set of labels counts as one class in both, and weighted_accuracy is
        the mean over the labels of (recall of presence + recall of absence) / 2.
    """
    predicted, true = _as_classes(decide(scores, threshold)), _as_classes(targets)
    recalls = [(predicted[true == k] == k).double().mean() for k in true.unique()]
    results = {
        "loss": round(loss(scores, targets).item(), 6),
        "accuracy": round((predicted == true).double().mean().item(), 6),
        "unweighted_accuracy": round(torch.stack(recalls).mean().item(), 6),
    }
    if threshold is None:
        return results
    decided, present = decide(scores, threshold), targets > 0
    # A label that is always or never present has one recall only: the other is NaN, and left out of its mean.
    sides = [
        [(decided[present[:, k] == side, k] == side).double().mean() for side in (True, False)]
        for k in range(present.shape[1])
    ]
    return results | {"weighted_accuracy": round(torch.tensor(sides).nanmean(1).mean().item(), 6)}


def prediction_details(corpus: corpora.Corpus, split: str, decided: Tensor, targets: Tensor) -> dict:
    """What a record says of the test part of a fold beside its results: what ``decide`` gave, and the targets.

    Returns:
        confusion, rows being true classes; units, correct and all test clips of each unit of resampling; predictions of
        the clips. With several labels per clip, rows and columns are the label_sets that occur or are predicted.
    """
    predicted, true, sets = _as_classes(decided), _as_classes(targets), {}
    labels = list(range(len(corpus.classes)))
    if targets.dim() == 2:
        labels = sorted({*predicted.tolist(), *true.tolist()})
        names = ["+".join(n for k, n in enumerate(corpus.classes) if code >> k & 1) for code in labels]
        sets = {"label_sets": names}
    table = corpus.table.loc[list(corpus.split(split).test)].assign(correct=(predicted == true).numpy())
    units = table.groupby("unit")["correct"].agg(["sum", "size"])
    return sets | {
        "confusion": confusion_matrix(true, predicted, labels=labels).tolist(),
        "units": dict(zip(units.index.astype(str), units.to_numpy().tolist(), strict=True)),
        "predictions": predicted.tolist(),
    }


def _as_classes(labels: Tensor) -> Tensor:
    """Class indices as they are; sets of labels (clips, classes) as binary numbers, (clips,)."""
    return labels if labels.dim() == 1 else ((labels > 0).long() * 2 ** torch.arange(labels.shape[1])).sum(-1)
