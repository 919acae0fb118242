"""One run: a configuration in, a record out.

Validation data choose the epoch; test data are looked at once, with the weights so chosen. The same configuration gives
the same record on the same machine, however many runs go on beside it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from capslib import corpora, features, keys, models, paths, schedules
from capslib.errors import CapslibError
from capslib.layers import MarginLoss
from capslib.records import run_key
from capslib.runs import Part, RunConfig, batches, epoch_batches, load_parts

LOSSES: dict[str, Callable[[], nn.Module]] = {"cross_entropy": nn.CrossEntropyLoss, "margin": MarginLoss}
# Several labels a clip: false alarms weigh as much as misses (P0 section 5.5), and a class is there from this score on.
MULTI_LABEL: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "cross_entropy": (nn.BCEWithLogitsLoss, 0.0),
    "margin": (lambda: MarginLoss(down_weighting=1.0), 0.5),
}


@torch.inference_mode()
def of_each(
    function: Callable[[Tensor, Tensor], Tensor], part: Part, device: torch.device, batch_size: int = 32
) -> Tensor:
    """What ``function`` of (features, lengths) gives for every clip, in the order of the part, on the processor."""
    found, order = [], batches(part.lengths, batch_size)
    for indices in order:
        padded, lengths, _ = part.batch(indices, device)
        found.append(function(padded, lengths).float().cpu())
    return torch.cat(found)[torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))]


def predict(model: nn.Module, part: Part, device: torch.device, batch_size: int = 32) -> Tensor:
    """Scores of every clip, in the order of the part: (clips, classes), on the processor."""
    model.eval()
    return of_each(model, part, device, batch_size)


def decide(scores: Tensor, threshold: float | None = None) -> Tensor:
    """Class indices (clips,), or with a threshold which of the classes are there, bool (clips, classes)."""
    return scores.argmax(-1) if threshold is None else scores > threshold


def evaluate(scores: Tensor, targets: Tensor, loss: nn.Module, threshold: float | None = None) -> dict[str, float]:
    """What a part of a split gave.

    Args:
        scores: (clips, classes).
        targets: class indices, or multi-hot (clips, classes).
        loss: of the model.
        threshold: from which score on a class is there; for several labels a clip.
    Returns:
        loss; accuracy (WA of P1/P2); unweighted_accuracy (mean recall over the classes that occur). With several labels a
        clip, a set of labels counts as one class in both, and weighted_accuracy is the mean over the labels of (recall of
        their presence + recall of their absence) / 2.
    """
    predicted, kinds = _as_classes(decide(scores, threshold)), _as_classes(targets)
    recalls = [(predicted[kinds == k] == k).double().mean() for k in kinds.unique()]
    found = {
        "loss": round(loss(scores, targets).item(), 6),
        "accuracy": round((predicted == kinds).double().mean().item(), 6),
        "unweighted_accuracy": round(torch.stack(recalls).mean().item(), 6),
    }
    if threshold is None:
        return found
    here, there = decide(scores, threshold), targets > 0
    sides = [
        [(here[there[:, k] == side, k] == side).double().mean() for side in (True, False)]
        for k in range(there.shape[1])
    ]
    return found | {"weighted_accuracy": round(torch.tensor(sides).nanmean(1).mean().item(), 6)}


def _as_classes(found: Tensor) -> Tensor:
    """Class indices as they are; sets of labels (clips, classes) as binary numbers."""
    return found if found.dim() == 1 else ((found > 0).long() * 2 ** torch.arange(found.shape[1])).sum(-1)


def train_epoch(
    model: models.AudioModel,
    part: Part,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    random: np.random.Generator,
    device: torch.device,
    epoch: int = 1,
    schedule: schedules.LossDecay | None = None,
) -> float:
    """One pass over the training part; returns the mean loss."""
    model.train()
    part = part.drawn(random)
    total = torch.zeros((), device=device)
    for indices in epoch_batches(part, config, epoch, random):
        padded, lengths, targets = part.batch(indices, device)
        value = model.objective(padded, lengths, targets, loss)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        if schedule is not None:
            schedule.step(value.item(), epoch)
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


def restore(config: RunConfig, weights: Path) -> models.AudioModel:
    """The model of a run with the weights that ``train`` saved, in evaluation mode.

    Raises:
        CapslibError: if the file cannot be read, or is another model's.
    """
    try:
        stored = load_file(weights)
        with safe_open(weights, "pt") as file:
            about = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        options = about["options"]
        if (
            about["model"] != config.model
            or not json.loads(json.dumps(dict(config.options))).items() <= options.items()
        ):
            raise CapslibError(f"they are of {about['model']} with {options}")
        model = models.build(config.model, stored["standardize.mean"].shape[0], len(about["classes"]), **options)
        model.load_state_dict(stored)
    except (CapslibError, OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CapslibError(
            f"{paths.shown(weights)} does not hold the weights of {config.title()} ({reason}): delete it"
        ) from None
    return model.eval()


def data_fingerprint(config: RunConfig) -> str:
    """Of all clips that decide a run: of its corpus and split, and of its source's."""
    runs = [config] if config.source is None else [config, config.source]
    return "+".join(corpora.load(run.corpus).split_fingerprint(run.split) for run in runs)


def source_vectors(config: RunConfig, device: torch.device) -> tuple[Tensor, dict]:
    """What the source model of a run says of every clip of the run's corpus (P0 section 6.2).

    The source is trained first, once a machine; it never sees a clip of the run's corpus.

    Returns:
        Its embedding of each row, (rows, E); its chosen epoch and results.
    Raises:
        CapslibError: if the source has other features or another sample rate, or clips of the run's own corpus.
    """
    source, corpus = config.source, corpora.load(config.corpus)
    origin = corpora.load(source.corpus)
    if not set(origin.table["sha256"]).isdisjoint(corpus.table["sha256"]):
        raise CapslibError(f"{config.title()}: the source has heard clips of this corpus: transfer needs another one")
    if source.features != config.features:
        raise CapslibError(
            f"{config.title()}: the source was made for other features ({source.features}): use the same"
        )
    if origin.sample_rate != corpus.sample_rate:
        raise CapslibError(
            f"{config.title()}: the source {origin.name} has {origin.sample_rate} Hz and {corpus.name} has "
            f"{corpus.sample_rate} Hz: choose a source of the same sample rate"
        )
    named = {*keys.words(source.described()), *models.words(source.model)}
    code = keys.code_version([("capslib.training", "train"), (models.home(source.model), "MODELS")], named)
    key = run_key(json.loads(json.dumps(source.described())), origin.split_fingerprint(source.split), code)
    weights = paths.cache() / "sources" / f"{key}.safetensors"
    results = weights.with_suffix(".json")
    if not (weights.is_file() and results.is_file()):  # both are written whole, the results last
        made = train(source, weights, device)
        kept = {name: made[name] for name in ("config", "chosen_epoch", "train", "validation", "test")}
        paths.write_text(results, json.dumps(kept))
    model = restore(source, weights).to(device)
    extracted = features.extract(corpus, config.features)
    clips = [torch.from_numpy(np.array(extracted[row])) for row in range(len(extracted.lengths))]
    usable = [row for row, clip in enumerate(clips) if len(clip)]
    with reproducibly(source.seed):
        found = of_each(model.embed, Part([clips[row] for row in usable], torch.zeros(len(usable))), device)
    vectors = torch.zeros(len(clips), found.shape[1])
    vectors[usable] = found
    return vectors, json.loads(results.read_text(encoding="utf-8"))


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
    vectors, source = source_vectors(config, device) if config.source else (None, None)
    with reproducibly(config.seed):
        parts = load_parts(corpus, config, vectors)
        seen_parts = parts | {"validation": parts["validation"].at_all_levels()}
        known = {"num_frames": parts["train"].longest, "source_features": None if vectors is None else vectors.shape[1]}
        options = models.complete(config.model, dict(config.options), known)
        if options.get("source_features", known["source_features"]) != known["source_features"]:
            raise CapslibError(
                f"{config.title()}: its source gives {known['source_features']} numbers a clip: leave source_features out"
            )
        model = models.build(config.model, parts["train"].clips[0].shape[1], len(corpus.classes), **options)
        model.fit(torch.cat(list(parts["train"].clips)))
        model.to(device)
        several = corpus.about.multi_label
        build_loss, threshold = MULTI_LABEL[model.loss] if several else (LOSSES[model.loss], None)
        loss = build_loss()
        optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
        decay = schedules.SCHEDULES[config.schedule]
        schedule = decay(optimizer) if decay else None
        random = np.random.default_rng(config.seed)
        history, best, chosen, chosen_epoch = [], None, _copied(model), 0
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            train_loss = train_epoch(model, parts["train"], loss, optimizer, config, random, device, epoch, schedule)
            if not np.isfinite(train_loss):
                raise CapslibError(f"{config.title()}: the loss is not a number in epoch {epoch}: lower learning_rate")
            validation = seen_parts["validation"]
            seen = evaluate(predict(model, validation, device), validation.targets, loss, threshold)
            history.append(
                {"epoch": epoch, "train_loss": round(train_loss, 6)}
                | {f"validation_{name}": value for name, value in seen.items()}
                | {"seconds": round(time.perf_counter() - started, 3)}
            )
            rank = (seen["accuracy"], -seen["loss"])
            if best is None or rank > best:
                best, chosen, chosen_epoch = rank, _copied(model), epoch
        model.load_state_dict(chosen)
        scores = {name: predict(model, part, device) for name, part in seen_parts.items()}
    if weights is not None:
        about = {"model": config.model, "corpus": config.corpus, "classes": corpus.classes, "options": options}
        metadata = {name: json.dumps(value) for name, value in about.items()}
        paths.write_atomically(weights, lambda temporary: save_file(chosen, temporary, metadata))
    results = {name: evaluate(scores[name], part.targets, loss, threshold) for name, part in seen_parts.items()}
    seconds = [entry.pop("seconds") for entry in history]
    return {
        "config": config.described(),
        "data": {
            "fingerprint": data_fingerprint(config),
            "clips": {name: len(part) for name, part in seen_parts.items()},
        },
        "classes": list(corpus.classes),
        "parameters": models.count_parameters(model),
        "epochs": history,
        "chosen_epoch": chosen_epoch,
        **results,
        **({"source": source} if source else {}),
        **_details(corpus, config.split, decide(scores["test"], threshold), parts["test"].targets),
        "provenance": {
            "seconds": round(time.perf_counter() - began, 2),
            "seconds_per_epoch": round(float(np.median(seconds or [0.0])), 3),
            "device": device.type,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _details(corpus: corpora.Corpus, split: str, decided: Tensor, wanted: Tensor) -> dict:
    """Confusion matrix (rows: true), right and all test clips of every unit of the interval, and the predictions.

    With several labels a clip, the rows and columns of the matrix are the sets of labels that occur or are predicted.
    """
    table = corpus.table.loc[list(corpus.split(split).test)]
    predicted, kinds, sets = _as_classes(decided), _as_classes(wanted), {}
    labels = list(range(len(corpus.classes)))
    if wanted.dim() == 2:
        labels = sorted({*predicted.tolist(), *kinds.tolist()})
        names = ["+".join(n for k, n in enumerate(corpus.classes) if code >> k & 1) for code in labels]
        sets = {"label_sets": names}
    right, units = (predicted == kinds).numpy(), table["unit"]
    return sets | {
        "confusion": confusion_matrix(kinds, predicted, labels=labels).tolist(),
        "units": {
            str(unit): [int(right[units.to_numpy() == unit].sum()), int((units == unit).sum())]
            for unit in sorted(units.unique())
        },
        "predictions": predicted.tolist(),
    }
