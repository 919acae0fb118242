"""Epochs train, shares add up, and the network as usually written is the same size as ours."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import machine, results, store, training
from bench.store import Store
from capslib.features import FeatureConfig
from capslib.layers import BiLSTM
from capslib.training import Part, RunConfig


@pytest.fixture
def setting():
    random = torch.Generator().manual_seed(0)
    clips = [torch.randn(length, 6, generator=random) for length in (9, 5, 7, 8)]
    config = RunConfig("synth_digits:digit", "none", "caps", features=FeatureConfig(), batch_size=2)
    return training.Setting(config, Part(clips, torch.tensor([0, 1, 2, 0])), 3)


def test_shares_sum_to_one_and_every_layer_is_seen(setting):
    shares = training.shares(setting)
    assert set(shares) == {*training.P0_LAYERS.values(), "optimizer", "collation", "other"}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0


def test_backward_belongs_to_the_layer_whose_forward_recorded_it():
    def event(name, microseconds, number=-1, parent=None):
        length = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(name=name, time_range=length, sequence_nr=number, cpu_parent=parent)

    layer = event("share:routing", 10, parent=event("share:epoch", 100))
    shares = training.attribute(
        [layer.cpu_parent, layer, event("aten::mm", 4, 7, parent=layer), event("aten::mm", 5, 8, layer.cpu_parent)]
        + [event("autograd::engine::evaluate_function: MmBackward0", 20, number) for number in (7, 8)]
        + [event("Optimizer.step#Adam.step", 30)],
        ["routing"],
    )
    assert shares["routing"] == 0.3 and shares["optimizer"] == 0.3 and shares["other"] == 0.4


def test_the_usual_model_has_the_same_size_and_none_of_our_layers(setting):
    ours, usual = setting.model(), training.in_plain_torch(setting.model())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in usual.parameters())
    assert not [module for module in usual.modules() if isinstance(module, BiLSTM)]
    assert isinstance(usual.capsules.routing, training.EinsumRouting)


def test_both_epochs_train(setting):
    for epoch in (training.our_epoch(setting), training.usual_epoch(setting)):
        assert np.isfinite([epoch(), epoch()]).all()


def test_measuring_gives_a_ratio(setting, small, tmp_path):
    training.measure(Store("training", repeats=1, folder=tmp_path), setting)
    measured = store.read(machine.kind(), tmp_path)["training"]
    assert set(results.epoch(measured)["training"]) == {"capslib", "as usually written"}
    assert results.shares(measured)["share"].sum() == pytest.approx(1)


def test_p2_s_steps_and_epoch_are_measured(tmp_path, small):
    batch, random = (2, 45, 64), torch.Generator().manual_seed(0)
    part = Part(list(torch.randn(3, 45, 64, generator=random)), torch.tensor([0, 1, 3]))
    config = RunConfig("synth_emotion:emotion", "fold1", "cnn_seqcap", batch_size=2, schedule="loss_decay")
    training.measure_emotion(Store("emotion", repeats=1, folder=tmp_path), training.Setting(config, part, 4), batch)
    measured = store.read(machine.kind(), tmp_path)["emotion"]
    assert list(results.steps(measured)["system"]) == [*training.STEPS, training.LARGEST]
    assert results.steps(measured).set_index("system").loc["CNN_SeqCap", "times CNN_SeqCap"] == "1.00"
    assert results.shares(measured)["share"].sum() == pytest.approx(1)
    assert {"CNN component", "primary capsules", "routing"} <= set(results.shares(measured)["part"])
    goals = results.step_goals(measured).split("; ")
    assert len(goals) == 3 and all(goal.endswith((" met", " not met")) for goal in goals)
    assert len(results.epoch(measured)) == 1


def test_a_step_for_memory_trains():
    call, small_call, parameters = training.step_for_memory("CNN_RecCap", (2, 45, 64))
    assert np.isfinite([call(), small_call()]).all() and all(p.grad is not None for p in parameters)


def test_the_runs_to_measure_exist():
    assert training.caps().model == "caps" and training.seqcap().model == "cnn_seqcap"
