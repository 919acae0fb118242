"""Whole trainings: an epoch of P0's capsule network, ours and as usually written, steps and an epoch of P1's and P2's
systems, and where the time of an epoch goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench import memory, timing
from bench.formulations import einsum_votes, routed_by_einsum
from bench.store import Store
from capslib import corpora, models, study, training
from capslib.errors import CapslibError
from capslib.layers import BiLSTM, CapsuleLayer, MaskedBatchNorm, PrimaryCapsules, Standardize
from capslib.models.p2_parts import ConvolutionalTrunk
from capslib.papers import p2
from capslib.training import Part, RunConfig

# Names of the shares of an epoch, by the kind of layer whose forward and backward they are.
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
    """torch's own bidirectional LSTM over padded steps, as in most code.

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
        """(B, I, F), (J, F, D) -> (B, J, D), three iterations."""
        return routed_by_einsum(einsum_votes(u, weight), 3, mask)


def in_plain_torch(model: nn.Module) -> nn.Module:
    """Replace, in ``model``, every ``BiLSTM`` by ``PaddedBiLSTM`` and our routing by ``EinsumRouting``; return it."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BiLSTM):
                setattr(module, name, PaddedBiLSTM(child.ahead.input_size, child.ahead.hidden_size))
            elif isinstance(module, CapsuleLayer) and name == "routing":
                module.routing = EinsumRouting()
    return model


@dataclass(frozen=True)
class Setting:
    """What an epoch is measured on: a configuration, the training part and the number of classes."""

    config: RunConfig
    part: Part
    classes: int

    def model(self) -> models.AudioModel:
        """A fresh network, scaled by the training part."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = models.build(self.config.model, self.part.clips[0].shape[1], self.classes)
        model.fit(self.part)
        return model


def setting(config: RunConfig) -> Setting:
    """The setting of a run: the training part of its fold."""
    corpus = corpora.load(config.corpus)
    return Setting(config, training.load_parts(corpus, config)["train"], len(corpus.classes))


def caps() -> RunConfig:
    """CAPS at the full profile on FSDD, or on the synthetic digits where FSDD is not available."""
    key = "fsdd:digit" if corpora.find("fsdd") else "synth_digits:digit"
    return study.grid([key], ["caps"], "full").runs[0].config


def seqcap() -> RunConfig:
    """CNN_SeqCap at the full profile, without curriculum, on EmoDB, or on the synthetic emotions without EmoDB."""
    key = "emodb:emotion4_p2" if corpora.find("emodb") else "synth_emotion:emotion"
    return p2.grid([key], "full", ["CNN_SeqCap"], seeds=[0], folds=1, order="random").runs[0].config


def our_epoch(chosen: Setting, model: models.AudioModel | None = None) -> Callable[[], float]:
    """An epoch as ``training.train`` runs it: clips of like length together, our layers, the fused optimizer.

    Args:
        chosen: configuration and data.
        model: trained in place; default a fresh one.
    Returns:
        A call that trains for one epoch and returns the mean loss.
    """
    model, config = model or chosen.model(), chosen.config
    loss, random, device = training.LOSSES[model.loss](), np.random.default_rng(0), torch.device("cpu")
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    decay = training.SCHEDULES[config.schedule]
    schedule = decay(optimizer) if decay else None
    # The second epoch is the first after that of a curriculum.
    return lambda: training.train_epoch(model, chosen.part, loss, optimizer, config, random, device, 2, schedule)


def usual_epoch(chosen: Setting) -> Callable[[], float]:
    """An epoch as it is usually written: random batches, padded LSTM, einsum routing, the optimizer's defaults."""
    model, loss = in_plain_torch(chosen.model()), training.LOSSES["margin"]()
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
class _MarkedPart(Part):
    def batch(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        with record_function("share:collation"):
            return super().batch(indices, device)


@contextmanager
def _marked(model: nn.Module, layers: Mapping[type[nn.Module], str]) -> Iterator[None]:
    """Every layer of a kind in ``layers`` marks its forward for the profiler."""
    hooks, active = [], []

    def begin(module: nn.Module, _: object) -> None:
        mark = record_function(f"share:{layers[type(module)]}")
        mark.__enter__()
        active.append(mark)

    def end(*_: object) -> None:
        active.pop().__exit__(None, None, None)

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

    A backward step belongs to the layer whose forward recorded it: the profiler gives both the same sequence number.
    The rest ("other") is the loss, clipping, dropout, accumulation of gradients, and Python between operators.

    Args:
        chosen: configuration and data.
        layers: names of the shares, by kind of layer.
    Returns:
        By those names, "optimizer", "collation" and "other"; they sum to one.
    """
    marked = replace(chosen, part=_MarkedPart(**vars(chosen.part)))
    model = marked.model()
    epoch = our_epoch(marked, model)
    with _marked(model, layers):
        epoch()
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, record_function("share:epoch"):
            epoch()
    return attribute(profiler.events(), layers.values())


def attribute(events: Sequence[object], names: Iterable[str]) -> dict[str, float]:
    """Shares from the profiler's events: marked ranges, and backward steps by the sequence numbers inside those.

    Raises:
        CapslibError: if there is no epoch among the events.
    """
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
    total = sum(microseconds.values())
    return {name: value / total for name, value in microseconds.items()}


def _mark(event: object) -> str | None:
    """Name of the marked range that an event lies in."""
    while event is not None:
        if event.name.startswith("share:") and event.name != "share:epoch":
            return event.name.removeprefix("share:")
        event = event.cpu_parent
    return None


def _add_epoch(
    store: Store, chosen: Setting, epochs: Mapping[str, Callable], layers: Mapping[type[nn.Module], str]
) -> dict[str, float]:
    """Measure epochs and the shares of ours, on one thread as in every run of a grid; returns the medians by name."""
    with timing.threads(1):
        seconds = timing.in_turns(epochs, store.repeats)
        parts = shares(chosen, layers)
    for name, value in seconds.items():
        print(f"an epoch of {chosen.config.title()}, {name}: {value['median']:.2f} s")
    print("  of ours: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items()))
    facts = {"corpus": chosen.config.corpus, "clips": len(chosen.part), "batch_size": chosen.config.batch_size}
    frames = {"frames": int(chosen.part.lengths.sum()), "threads of a training": 1}
    store.add("epoch", {"seconds": seconds, "shares": parts, **facts, **frames})
    return {name: value["median"] for name, value in seconds.items()}


def measure(store: Store, chosen: Setting | None = None) -> None:
    """An epoch of CAPS, ours and as usually written, and the shares of ours."""
    chosen = chosen or setting(caps())
    epochs = {"capslib": our_epoch(chosen), "as usually written": usual_epoch(chosen)}
    medians = _add_epoch(store, chosen, epochs, P0_LAYERS)
    print(f"  ours is {medians['as usually written'] / medians['capslib']:.2f} times as fast")


def step(system: str, batch: Sequence[int] = BATCH) -> tuple[Callable[[], float], Sequence[Tensor]]:
    """A training step of one of P2's systems on spectrograms of noise, and the parameters that it trains.

    Args:
        system: in ``STEPS``, or ``LARGEST``.
        batch: clips, frames, bins.
    """
    random = torch.Generator().manual_seed(0)
    features = torch.randn(*batch, generator=random)
    part = Part(list(features), torch.randint(4, (batch[0],), generator=random))
    config = RunConfig(corpus="noise", split="none", model=system.lower(), batch_size=batch[0])
    chosen = Setting(config, part, 4)
    model = chosen.model()
    return our_epoch(chosen, model), list(model.parameters())


def step_for_memory(system: str, batch: Sequence[int]) -> tuple[Callable, Callable, Sequence[Tensor]]:
    """The step, a small one of its kind, and the parameters: a ``memory.Prepare``."""
    call, parameters = step(system, batch)
    return call, step(system, (1, 40, batch[2]))[0], parameters


def measure_emotion(store: Store, chosen: Setting | None = None, batch: Sequence[int] = BATCH) -> None:
    """Time and memory of a training step of P2's systems on all cores; an epoch of CNN_SeqCap on one thread."""
    seconds = timing.in_turns({system: step(system, batch)[0] for system in STEPS}, store.repeats)
    seconds |= timing.in_turns({LARGEST: step(LARGEST, batch)[0]}, 1)
    mebibytes = {system: memory.in_fresh_process(step_for_memory, (system, batch)) for system in seconds}
    for system, value in seconds.items():
        print(f"a step of {system}: {value['median']:.3f} s, {mebibytes[system]} MiB")
    facts = {"batch": list(batch), "threads": torch.get_num_threads()}
    store.add("step", {"seconds": seconds, "MiB": mebibytes, **facts})
    chosen = chosen or setting(seqcap())
    _add_epoch(store, chosen, {"capslib": our_epoch(chosen)}, P2_LAYERS)


def measure_reproduce(store: Store, epochs: int = 30) -> None:
    """One full run of CAPS on one thread and ``make reproduce``, once each: minutes, so no medians."""
    config = replace(caps(), epochs=epochs)
    seconds = training.train(config)["provenance"]["seconds"]
    print(f"{config.title()}, {epochs} epochs, one thread: {seconds:.0f} s")
    store.add("whole run", {"title": config.title(), "epochs": epochs, "seconds": seconds, "repeats": 1})
    seconds, gibibytes = reproduce()
    print(f"make reproduce at quick, without records: {seconds:.0f} s, at most {gibibytes:.2f} GiB in all processes")
    store.add("make reproduce", {"seconds": seconds, "GiB": gibibytes, "repeats": 1})


def reproduce() -> tuple[float, float]:
    """Seconds and peak memory (GiB, all processes together) of ``make reproduce`` without records, in a scratch folder.

    Raises:
        CapslibError: if it fails.
    """
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
    """Bytes of a process and its descendants; pages that they share count once, where the system reports that."""
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
