"""One run: a configuration in, a record out.

Validation data choose the epoch; test data are looked at once, with the weights so chosen. The same configuration gives
the same record on the same machine, however many runs go on beside it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from capslib import corpora, features, models, paths
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.layers import MarginLoss

LOSSES: dict[str, Callable[[], nn.Module]] = {"cross_entropy": nn.CrossEntropyLoss, "margin": MarginLoss}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        corpus: key, "fsdd:digit".
        split: name of the fold.
        model: name.
        options: what differs from the model's defaults.
        seed: of initialization, order and dropout.
        features: kind and options.
        epochs: fixed; the best on validation data is kept.
        batch_size: clips.
        learning_rate: Adam's, constant.
        gradient_clip: largest norm of the gradient.
        max_train_clips: train on so many clips only (quick looks at large corpora); None for all.
    """

    corpus: str
    split: str
    model: str
    options: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    gradient_clip: float = 5.0
    max_train_clips: int | None = None

    def title(self) -> str:
        """For progress bars and errors: "caps on fsdd:digit, split theo, seed 0"."""
        options = "".join(f" {name}={value}" for name, value in self.options)
        return f"{self.model}{options} on {self.corpus}, split {self.split}, seed {self.seed}"


@dataclass(frozen=True)
class Part:
    """Clips of one part of a split: features (frames, F) and class index of each."""

    clips: Sequence[Tensor]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip."""
        return np.array([len(clip) for clip in self.clips])

    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Padded features (B, T, F), lengths (B,), targets (B,)."""
        chosen = [self.clips[i] for i in indices]
        padded = nn.utils.rnn.pad_sequence(chosen, batch_first=True).to(device, non_blocking=True)
        lengths = torch.tensor([len(clip) for clip in chosen], device=device)
        return padded, lengths, self.targets[torch.as_tensor(indices)].to(device)


def load_parts(corpus: corpora.Corpus, config: RunConfig) -> dict[str, Part]:
    """Features and targets of train, validation and test."""
    split = corpus.split(config.split)
    extracted = features.extract(corpus, config.features)
    index = {name: i for i, name in enumerate(corpus.classes)}
    parts = {}
    for part in ("train", "validation", "test"):
        ids = list(getattr(split, part))
        if part == "train" and config.max_train_clips and len(ids) > config.max_train_clips:
            chosen = np.random.default_rng(0).permutation(len(ids))[: config.max_train_clips]
            ids = [ids[i] for i in sorted(chosen)]
        rows = corpus.table.loc[ids]
        clips = [torch.from_numpy(np.array(extracted[row])) for row in rows["row"]]
        parts[part] = Part(clips, torch.tensor([index[label] for label in rows["label"]]))
    return parts


def batches(lengths: np.ndarray, batch_size: int, random: np.random.Generator | None = None) -> list[np.ndarray]:
    """Indices, in batches of clips of like length.

    Args:
        lengths: frames of each clip.
        batch_size: clips.
        random: shuffles first, then sorts within eight batches and shuffles the batches, so that padding is short and
            the order still random; None for one fixed order by length.
    """
    if random is None:
        order = np.argsort(lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    order, chunk, out = random.permutation(len(lengths)), 8 * batch_size, []
    for start in range(0, len(order), chunk):
        pool = order[start : start + chunk]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        out.extend(pool[i : i + batch_size] for i in range(0, len(pool), batch_size))
    return [out[i] for i in random.permutation(len(out))]


@torch.inference_mode()
def predict(model: nn.Module, part: Part, device: torch.device, batch_size: int = 32) -> Tensor:
    """Scores of every clip, in the order of the part: (clips, classes), on the processor."""
    model.eval()
    scores, order = [], batches(part.lengths, batch_size)
    for indices in order:
        padded, lengths, _ = part.batch(indices, device)
        scores.append(model(padded, lengths).float().cpu())
    return torch.cat(scores)[torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))]


def evaluate(scores: Tensor, targets: Tensor, loss: nn.Module) -> dict[str, float]:
    """Loss, accuracy (WA of P1/P2) and unweighted accuracy (mean recall over the classes that occur)."""
    predicted, classes = scores.argmax(-1), targets.unique()
    recalls = [(predicted[targets == k] == k).double().mean() for k in classes]
    return {
        "loss": round(loss(scores, targets).item(), 6),
        "accuracy": round((predicted == targets).double().mean().item(), 6),
        "unweighted_accuracy": round(torch.stack(recalls).mean().item(), 6),
    }


def train_epoch(
    model: nn.Module,
    part: Part,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    random: np.random.Generator,
    device: torch.device,
) -> float:
    """One pass over the training part; returns the mean loss."""
    model.train()
    total = torch.zeros((), device=device)
    for indices in batches(part.lengths, config.batch_size, random):
        padded, lengths, targets = part.batch(indices, device)
        value = loss(model(padded, lengths), targets)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        total += value.detach() * len(indices)
    return total.item() / len(part)


@contextmanager
def reproducibly(seed: int) -> Iterator[None]:
    """One thread and a seeded generator of random numbers, as before again afterwards."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def train(config: RunConfig, weights: Path | None = None, device: str | torch.device | None = None) -> dict:
    """Train, choose and test one system on one fold.

    Args:
        config: what to run.
        weights: where to save the chosen weights (safetensors), if anywhere.
        device: default: a GPU if there is one.
    Returns:
        The record, without the key and code version that ``study`` adds: config, data, parameters, epochs, chosen_epoch,
        train, validation, test (with confusion matrix and right and all clips of every unit), predictions, provenance.
    Raises:
        CapslibError: for anything the configuration names that is not there, or if the loss stops being a number.
    """
    began = time.perf_counter()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    corpus = corpora.load(config.corpus)
    with reproducibly(config.seed):
        parts = load_parts(corpus, config)
        model = models.build(
            config.model, parts["train"].clips[0].shape[1], len(corpus.classes), **dict(config.options)
        )
        model.standardize.fit(torch.cat(list(parts["train"].clips)))
        model.to(device)
        loss = LOSSES[model.loss]()
        optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
        random = np.random.default_rng(config.seed)
        history, best, chosen = [], None, {}
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            train_loss = train_epoch(model, parts["train"], loss, optimizer, config, random, device)
            if not np.isfinite(train_loss):
                raise CapslibError(f"{config.title()}: the loss is not a number in epoch {epoch}: lower learning_rate")
            seen = evaluate(predict(model, parts["validation"], device), parts["validation"].targets, loss)
            history.append(
                {"epoch": epoch, "train_loss": round(train_loss, 6)}
                | {f"validation_{name}": value for name, value in seen.items()}
                | {"seconds": round(time.perf_counter() - started, 3)}
            )
            rank = (seen["accuracy"], -seen["loss"])
            if best is None or rank > best:
                best = rank
                chosen = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
                chosen_epoch = epoch
        model.load_state_dict(chosen)
        scores = {part: predict(model, parts[part], device) for part in parts}
    if weights is not None:
        metadata = {"model": config.model, "corpus": config.corpus, "classes": ",".join(corpus.classes)}
        paths.write_atomically(weights, lambda temporary: save_file(chosen, temporary, metadata))
    results = {part: evaluate(scores[part], parts[part].targets, loss) for part in parts}
    seconds = [entry.pop("seconds") for entry in history]
    return {
        "config": asdict(config),
        "data": {"fingerprint": corpus.split_fingerprint(config.split), "clips": {p: len(parts[p]) for p in parts}},
        "classes": list(corpus.classes),
        "parameters": models.count_parameters(model),
        "epochs": history,
        "chosen_epoch": chosen_epoch,
        **results,
        **_details(corpus, config.split, scores["test"].argmax(-1), parts["test"].targets),
        "provenance": {
            "seconds": round(time.perf_counter() - began, 2),
            "seconds_per_epoch": round(float(np.median(seconds)), 3),
            "device": device.type,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }


def _details(corpus: corpora.Corpus, split: str, predicted: Tensor, targets: Tensor) -> dict:
    """Confusion matrix (rows: true), right and all test clips of every unit of the interval, and the predictions."""
    labels = range(len(corpus.classes))
    units = corpus.table.loc[list(corpus.split(split).test), "unit"]
    right = (predicted == targets).numpy()
    return {
        "confusion": confusion_matrix(targets, predicted, labels=list(labels)).tolist(),
        "units": {
            str(unit): [int(right[units.to_numpy() == unit].sum()), int((units == unit).sum())]
            for unit in sorted(units.unique())
        },
        "predictions": predicted.tolist(),
    }
