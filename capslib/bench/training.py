"""Whole trainings: an epoch of P0's capsule network as we train it and as it is usually written, one of P1's sequential capsules,
and where their time goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from capslib import corpora, models, recipes, schedules, study, training
from capslib.bench import memory, timing
from capslib.bench.formulations import einsum_votes, routed_by_einsum
from capslib.bench.store import Shelf
from capslib.errors import CapslibError
from capslib.layers import BiLSTM, CapsuleLayer, MaskedBatchNorm, PrimaryCapsules, Standardize
from capslib.models.p2_trunks import ConvolutionalTrunk
from capslib.training import Part, RunConfig

# What a share of an epoch is called, by the kind of layer whose forward and backward it is.
P0_LAYERS: Mapping[type[nn.Module], str] = {
    BiLSTM: "BiLSTM",
    CapsuleLayer: "routing",
    MaskedBatchNorm: "normalization",
    Standardize: "normalization",
}
P2_LAYERS: Mapping[type[nn.Module], str] = {
    ConvolutionalTrunk: "CNN component",
    PrimaryCapsules: "primary capsules",
    CapsuleLayer: "routing",
    Standardize: "normalization",
}
STEPS = ("CNN_GRU", "CNN_GRU_Att", "CNN_SeqCap", "CNN_RecCap")
LARGEST = "CNN_Cap"  # 131 million parameters: one step, after one that does not count
BATCH = (16, 200, 512)  # clips, frames of a segment of 2 s, bins


class PaddedBiLSTM(nn.Module):
    """torch's own bidirectional LSTM over padded steps: what stands in most code.

    Args:
        in_features, hidden_features: as for ``BiLSTM``.
    """

    def __init__(self, in_features: int, hidden_features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_features, hidden_features, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, in_features), (B,) -> (B, T, 2 * hidden_features); the backward direction begins in the padding."""
        return self.lstm(x)[0]


class EinsumRouting(nn.Module):
    """Votes by one einsum, routing by einsum, with the signature of ``DynamicRouting``."""

    def forward(
        self,
        u: Tensor,
        weight: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        prior: Tensor | None = None,
        return_coupling: bool = False,
    ) -> Tensor:
        """(B, I, F), (J, F, D) -> (B, J, D), three passes."""
        return routed_by_einsum(einsum_votes(u, weight), 3, mask)


def usual(model: nn.Module) -> nn.Module:
    """The same network in plain torch: ``PaddedBiLSTM`` for ``BiLSTM``, ``EinsumRouting`` for ours. Changes ``model``."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BiLSTM):
                setattr(module, name, PaddedBiLSTM(child.ahead.input_size, child.ahead.hidden_size))
            elif isinstance(module, CapsuleLayer) and name == "routing":
                module.routing = EinsumRouting()
    return model


@dataclass(frozen=True)
class Setting:
    """What an epoch is measured on: a configuration of the full profile and its training part."""

    config: RunConfig
    part: Part
    classes: int

    def model(self) -> models.AudioModel:
        """A fresh network, scaled by the training part."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = models.build(self.config.model, self.part.clips[0].shape[1], self.classes)
        made.fit(torch.cat(list(self.part.clips)))
        return made


def setting(config: RunConfig) -> Setting:
    """Of a configuration, with the training part of its fold."""
    corpus = corpora.load(config.corpus)
    return Setting(config, training.load_parts(corpus, config)["train"], len(corpus.classes))


def caps() -> Setting:
    """CAPS on FSDD if it is here, else on the synthetic digits."""
    key = "fsdd:digit" if corpora.find("fsdd") else "synth_digits:digit"
    return setting(study.grid([key], ["caps"], "full").runs[0].config)


def seqcap() -> Setting:
    """CNN_SeqCap on EmoDB if it is here, else on the synthetic emotions; the epoch after the curriculum's."""
    key = "emodb:emotion4_p2" if corpora.find("emodb") else "synth_emotion:emotion"
    return setting(recipes.p2_grid([key], "full", ["CNN_SeqCap"], seeds=[0], folds=1, order="random").runs[0].config)


def our_epoch(chosen: Setting) -> Callable[[], float]:
    """An epoch as ``training.train`` makes it: clips of like length together, our layers, the fused optimizer."""
    return _epoch(chosen.model(), chosen.part, chosen.config)


def _epoch(model: models.AudioModel, part: Part, config: RunConfig) -> Callable[[], float]:
    loss, random, device = training.LOSSES[model.loss](), np.random.default_rng(0), torch.device("cpu")
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    decay = schedules.SCHEDULES[config.schedule]
    schedule = decay(optimizer) if decay else None
    return lambda: training.train_epoch(model, part, loss, optimizer, config, random, device, 2, schedule)


def usual_epoch(chosen: Setting) -> Callable[[], float]:
    """An epoch as it is usually written: random batches, padded LSTM, einsum routing, the optimizer's defaults."""
    model, loss = usual(chosen.model()), training.LOSSES["margin"]()
    optimizer = torch.optim.Adam(model.parameters(), chosen.config.learning_rate)
    random, size = np.random.default_rng(0), chosen.config.batch_size

    def epoch() -> float:
        model.train()
        order, total = random.permutation(len(chosen.part)), 0.0
        for start in range(0, len(order), size):
            padded, lengths, targets = chosen.part.batch(order[start : start + size], torch.device("cpu"))
            value = loss(model(padded, lengths), targets)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), chosen.config.gradient_clip)
            optimizer.step()
            total += value.item() * len(padded)
        return total / len(order)

    return epoch


@dataclass(frozen=True)
class _WatchedPart(Part):
    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        with record_function("share:collation"):
            return super().batch(indices, device)


@contextmanager
def _watched(model: nn.Module, layers: Mapping[type[nn.Module], str]) -> Iterator[None]:
    """Every layer of a kind in ``layers`` marks its forward for the profiler."""
    hooks, open_ = [], []

    def begin(module: nn.Module, _: object) -> None:
        mark = record_function(f"share:{layers[type(module)]}")
        mark.__enter__()
        open_.append(mark)

    def end(*_: object) -> None:
        open_.pop().__exit__(None, None, None)

    for module in model.modules():
        if type(module) in layers:
            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def shares(chosen: Setting, layers: Mapping[type[nn.Module], str] = P0_LAYERS) -> dict[str, float]:
    """Share of an epoch's time by kind of layer, forward and backward together, from torch's profiler.

    A backward step belongs to the layer whose forward made it: the profiler gives both the same sequence number. What is left
    ("other") is the loss, clipping, dropout, accumulation of gradients, and Python between operators.

    Args:
        layers: names of the shares, by kind of layer.
    Returns:
        By those names, "optimizer", "collation" and "other"; they sum to one.
    """
    model = chosen.model()
    epoch = _epoch(model, _WatchedPart(**{f.name: getattr(chosen.part, f.name) for f in fields(Part)}), chosen.config)
    with _watched(model, layers):
        epoch()
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, record_function("share:epoch"):
            epoch()
    return attribute(profiler.events(), layers.values())


def attribute(events: Sequence[object], names: Iterable[str]) -> dict[str, float]:
    """Shares from the profiler's events: marked ranges, and backward steps by the sequence numbers inside those."""
    microseconds = dict.fromkeys([*names, "optimizer", "collation"], 0.0)
    owner: dict[int, str] = {}
    whole = 0.0
    for event in events:
        length = event.time_range.elapsed_us()
        if event.name == "share:epoch":
            whole += length
        elif event.name.startswith("share:"):
            microseconds[event.name.removeprefix("share:")] += length
        elif event.name.startswith(("Optimizer.step", "Optimizer.zero_grad")):
            microseconds["optimizer"] += length
        elif event.sequence_nr >= 0 and not event.name.startswith("autograd::engine"):
            mark = _mark(event)
            if mark:
                owner.setdefault(event.sequence_nr, mark)
    for event in events:
        if event.name.startswith("autograd::engine::evaluate_function") and event.sequence_nr in owner:
            microseconds[owner[event.sequence_nr]] += event.time_range.elapsed_us()
    if not whole:
        raise CapslibError("the profiler saw no epoch: give it at least one batch")
    microseconds["other"] = max(0.0, whole - sum(microseconds.values()))
    in_all = sum(microseconds.values())
    return {name: value / in_all for name, value in microseconds.items()}


def _mark(event: object) -> str | None:
    while event is not None:
        if event.name.startswith("share:") and event.name != "share:epoch":
            return event.name.removeprefix("share:")
        event = event.cpu_parent
    return None


def measure(shelf: Shelf, chosen: Setting | None = None) -> None:
    """An epoch both ways, and the shares of ours; one thread, as every run of a grid has."""
    chosen = chosen or caps()
    with timing.threads(1):
        epochs = {"capslib": our_epoch(chosen), "as usually written": usual_epoch(chosen)}
        found = timing.in_turns(epochs, shelf.repeats)
        parts = shares(chosen)
    for name, value in found.items():
        print(f"an epoch of {chosen.config.title()}, {name}: {value['median']:.2f} s")
    print(f"  ours is {found['as usually written']['median'] / found['capslib']['median']:.2f} times as fast")
    print("  of ours: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items()))
    facts = {"corpus": chosen.config.corpus, "clips": len(chosen.part), "batch_size": chosen.config.batch_size}
    frames = {"frames": int(chosen.part.lengths.sum()), "threads of a training": 1}
    shelf.keep("epoch", {"seconds": found, "shares": parts, **facts, **frames})


def step(system: str, batch: Sequence[int] = BATCH) -> tuple[Callable[[], float], Sequence[Tensor]]:
    """A training step of one of P2's systems on spectrograms of noise, and the parameters that it trains.

    Args:
        system: a key of ``recipes.P2_SYSTEMS``, or ``LARGEST``.
        batch: clips, frames, bins.
    """
    random = torch.Generator().manual_seed(0)
    features = torch.randn(*batch, generator=random)
    part = Part(list(features), torch.randint(4, (batch[0],), generator=random))
    config = RunConfig(
        corpus="noise", split="none", model=recipes.P2_SYSTEMS.get(system, system.lower()), batch_size=batch[0]
    )
    made = Setting(config, part, 4)
    model = made.model()
    return _epoch(model, part, made.config), list(model.parameters())


def step_for_memory(system: str, batch: Sequence[int]) -> tuple[Callable, Callable, Sequence[Tensor]]:
    """What ``memory.in_fresh_process`` wants: the step, a small one of its kind, the parameters."""
    call, parameters = step(system, batch)
    return call, step(system, (1, 40, batch[2]))[0], parameters


def measure_emotion(shelf: Shelf, chosen: Setting | None = None, batch: Sequence[int] = BATCH) -> None:
    """A training step of P2's systems with all cores, time and memory; an epoch of CNN_SeqCap on one thread, and its shares."""
    measure_steps(shelf, batch)
    measure_epoch(shelf, chosen or seqcap())


def measure_steps(shelf: Shelf, batch: Sequence[int] = BATCH) -> None:
    """A training step of P2's systems with all cores: time and memory."""
    found = timing.in_turns({system: step(system, batch)[0] for system in STEPS}, shelf.repeats)
    found |= timing.in_turns({LARGEST: step(LARGEST, batch)[0]}, 1)
    mebibytes = {system: memory.in_fresh_process(step_for_memory, (system, batch)) for system in found}
    for system, value in found.items():
        print(f"a step of {system}: {value['median']:.3f} s, {mebibytes[system]} MiB")
    shelf.keep("step", {"seconds": found, "MiB": mebibytes, "batch": list(batch), "threads": torch.get_num_threads()})


def measure_epoch(shelf: Shelf, chosen: Setting) -> None:
    """An epoch of CNN_SeqCap on one thread, and its shares."""
    with timing.threads(1):
        epoch = timing.in_turns({"capslib": our_epoch(chosen)}, shelf.repeats)
        parts = shares(chosen, P2_LAYERS)
    print(f"an epoch of {chosen.config.title()}: {epoch['capslib']['median']:.1f} s")
    print("  of it: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items()))
    facts = {"corpus": chosen.config.corpus, "clips": len(chosen.part), "batch_size": chosen.config.batch_size}
    shelf.keep("epoch", {"seconds": epoch, "shares": parts, **facts, "threads of a training": 1})


def whole_run(epochs: int = 30) -> tuple[str, float]:
    """Seconds of one full run of CAPS, 30 epochs on one thread: FSDD if it is here, else the synthetic digits."""
    key = "fsdd:digit" if corpora.find("fsdd") else "synth_digits:digit"
    job = study.grid([key], ["caps"], "full").runs[0].config
    record = training.train(replace(job, epochs=epochs))
    return job.title(), record["provenance"]["seconds"]


def reproduce() -> tuple[float, float]:
    """Seconds and largest memory (GiB, all processes together) of ``make reproduce`` from no records, into a scratch folder."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "capslib", "reproduce"]
        environment = {**os.environ, "CAPSLIB_REPORTS": scratch}
        environment.pop("CAPSLIB_DATA", None)  # as on a fresh clone: the embedded corpora only
        began, largest = time.perf_counter(), 0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            largest = max(largest, _memory(psutil.Process(process.pid)))
            time.sleep(0.5)
    if process.returncode:
        raise CapslibError(f"`{' '.join(command[1:])}` ended with status {process.returncode}: run it to see why")
    return time.perf_counter() - began, largest / 2**30


def _memory(process: psutil.Process) -> int:
    """Bytes of a process and all below it; pages that they share count once, where the system tells."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:  # it ended meanwhile
        return 0
    for one in family:
        try:
            facts = one.memory_full_info()
            total += getattr(facts, "pss", facts.rss)
        except psutil.Error:
            continue
    return total


def measure_reproduce(shelf: Shelf) -> None:
    """One full run and ``make reproduce``, once each: minutes, so no medians."""
    title, seconds = whole_run()
    print(f"{title}, 30 epochs, one thread: {seconds:.0f} s")
    shelf.keep("whole run", {"title": title, "epochs": 30, "seconds": seconds, "repeats": 1})
    seconds, gigabytes = reproduce()
    print(
        f"make reproduce at quick, from no records: {seconds:.0f} s, at most {gigabytes:.2f} GiB in all its processes"
    )
    shelf.keep("make reproduce", {"seconds": seconds, "GiB": gigabytes, "repeats": 1})
