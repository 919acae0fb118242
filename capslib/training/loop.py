"""One run: a configuration in, a record out.

Validation data choose the epoch; test data are used once, with the chosen weights. The same configuration gives the
same record on the same machine, however many runs go on beside it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from capslib import corpora, models, paths
from capslib.errors import CapslibError
from capslib.training.config import RunConfig
from capslib.training.dataset import Part, epoch_batches, load_parts
from capslib.training.inference import default_device, predict
from capslib.training.metrics import LOSSES, MULTI_LABEL, decide, evaluate, prediction_details
from capslib.training.optimizers import OPTIMIZERS, SCHEDULES, LossDecay

if TYPE_CHECKING:
    from capslib.training.transfer import Transfer


@contextmanager
def reproducibly(seed: int) -> Iterator[None]:
    """One thread, deterministic algorithms and a seeded generator of random numbers; afterwards all is as before."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
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


def train_epoch(
    model: models.AudioModel,
    part: Part,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    random: np.random.Generator,
    device: torch.device,
    epoch: int = 1,
    schedule: LossDecay | None = None,
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
        total += value.detach() * len(indices)  # summed on the device: no step waits for a GPU
    return total.item() / len(part)


def train(config: RunConfig, weights: Path | None = None, source: Transfer | None = None) -> dict:
    """Train, choose and test one system on one fold, on a GPU if there is one.

    Args:
        weights: where to save the chosen weights (safetensors), if anywhere.
        source: what ``config.source`` gives, trained before (see ``study.source_of``).
    Returns:
        The record, without the key and code version that ``study`` adds: config, data, parameters, epochs,
        chosen_epoch, train, validation, test (with confusion matrix, and correct and all clips of every unit),
        predictions, provenance.
    Raises:
        CapslibError: for anything the configuration names that does not exist, if its source was not handed over, or if
            the loss is no longer finite.
    """
    began = time.perf_counter()
    if (config.source is None) != (source is None):
        raise CapslibError(
            f"{config.title()}: its configuration and its ``source`` do not agree: hand over what study.source_of gives"
        )
    device, corpus = default_device(), corpora.load(config.corpus)
    with reproducibly(config.seed):
        parts = load_parts(corpus, config, source and source.vectors)
        evaluated = parts | {"validation": parts["validation"].at_all_levels()}
        model, options = _build(config, parts["train"], len(corpus.classes), source)
        model.to(device)
        build_loss, threshold = MULTI_LABEL[model.loss] if corpus.about.multi_label else (LOSSES[model.loss], None)
        loss = build_loss()
        history, chosen, chosen_epoch = _epochs(model, config, parts["train"], evaluated["validation"], loss, threshold)
        model.load_state_dict(chosen)
        scores = {name: predict(model, part, device) for name, part in evaluated.items()}
    if weights is not None:
        _save(weights, chosen, config, corpus, options)
    results = {name: evaluate(scores[name], part.targets, loss, threshold) for name, part in evaluated.items()}
    seconds = [entry.pop("seconds") for entry in history]
    data = [corpora.load(run.corpus).split_fingerprint(run.split) for run in (config, config.source) if run]
    return {
        "config": config.described(),
        "data": {"fingerprint": "+".join(data), "clips": {name: len(part) for name, part in evaluated.items()}},
        "classes": list(corpus.classes),
        "parameters": models.count_parameters(model),
        "epochs": history,
        "chosen_epoch": chosen_epoch,
        **results,
        **({"source": source.results} if source else {}),
        **prediction_details(corpus, config.split, decide(scores["test"], threshold), parts["test"].targets),
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


def _build(
    config: RunConfig, part: Part, num_classes: int, source: Transfer | None
) -> tuple[models.AudioModel, dict[str, object]]:
    """The model of a run, fitted to its training part, and the options that it was built with."""
    source_features = None if source is None else source.vectors.shape[1]
    longest = max(len(clip) for clips in (part.clips, *part.variants) for clip in clips)
    known = {"num_frames": longest, "source_features": source_features}
    options = models.complete(config.model, dict(config.options), known)
    if options.get("source_features", source_features) != source_features:
        raise CapslibError(
            f"{config.title()}: its source gives {source_features} numbers per clip: leave source_features out"
        )
    model = models.build(config.model, part.clips[0].shape[1], num_classes, **options)
    model.fit(part)
    return model, options


def _epochs(
    model: models.AudioModel, config: RunConfig, part: Part, validation: Part, loss: nn.Module, threshold: float | None
) -> tuple[list[dict], dict[str, Tensor], int]:
    """Train, and choose the epoch: of the highest validation accuracy the first with the smallest validation loss.

    Returns what a record says of each epoch, the chosen state on the processor, and the chosen epoch (0: as fitted).
    """
    history, best, chosen, chosen_epoch = [], (-1.0, 0.0), _copied(model), 0
    if not config.epochs:  # a model that ``fit`` determines has no parameters, and optimizers refuse that
        return history, chosen, chosen_epoch
    if not models.count_parameters(model):
        raise CapslibError(f"{config.title()}: the model has no parameters to train: give epochs=0")
    device = model.standardize.mean.device
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config)
    decay = SCHEDULES[config.schedule]
    schedule = decay(optimizer) if decay else None
    random = np.random.default_rng(config.seed)  # of order and levels; initialization and dropout use torch's
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        train_loss = train_epoch(model, part, loss, optimizer, config, random, device, epoch, schedule)
        if not np.isfinite(train_loss):
            raise CapslibError(f"{config.title()}: the loss is not a number in epoch {epoch}: lower learning_rate")
        results = evaluate(predict(model, validation, device), validation.targets, loss, threshold)
        history.append(
            {"epoch": epoch, "train_loss": round(train_loss, 6)}
            | {f"validation_{name}": value for name, value in results.items()}
            | {"seconds": round(time.perf_counter() - started, 3)}
        )
        rank = (results["accuracy"], -results["loss"])
        if rank > best:
            best, chosen, chosen_epoch = rank, _copied(model), epoch
    return history, chosen, chosen_epoch


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _save(weights: Path, state: dict[str, Tensor], config: RunConfig, corpus: corpora.Corpus, options: Mapping) -> None:
    """Write a state with all that is needed to use it on other recordings, as JSON in the metadata."""
    described = {
        "model": config.model,
        "options": options,
        "corpus": config.corpus,
        "classes": corpus.classes,
        "sample_rate": corpus.sample_rate,
        "features": asdict(config.features),
    }
    metadata = {name: json.dumps(value) for name, value in described.items()}
    paths.write_atomically(weights, lambda temporary: save_file(state, temporary, metadata))
