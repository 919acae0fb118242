"""Timing, memory, machine, command and store: real memory, nothing lost, no host named. No test asserts a time."""

import json
import platform

import pytest
import torch

from bench import __main__ as command
from bench import formulations, machine, memory, routing, store, timing
from bench.store import Store
from capslib.errors import CapslibError


def test_quick_candidates_are_called_often_enough():
    calls = []
    timing.in_turns({"quick": lambda: calls.append(0)}, repeats=1, turn_seconds=1.0)
    assert len(calls) > 10


def test_every_turn_but_the_first_counts():
    seconds = timing.in_turns({"a": lambda: 0, "b": lambda: 0}, repeats=3, turn_seconds=0.0)
    assert {name: value["repeats"] for name, value in seconds.items()} == {"a": 3, "b": 3}


def test_median_and_quartiles():
    assert timing.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "lower": 2.0, "upper": 4.0, "repeats": 5}


def test_peak_is_what_was_allocated_even_if_it_was_freed():
    def call():
        torch.ones(16 * 2**20).sum()
        return torch.ones(2**20)

    assert memory.peak(call, []) == pytest.approx(64, abs=6)


def test_gradients_of_parameters_do_not_count():
    weight = torch.ones(8 * 2**20, requires_grad=True)
    weight.sum().backward()
    assert memory.peak(lambda: weight.sum().backward(), [weight]) < 6


def test_a_fresh_process_sees_the_votes_of_the_einsum_formulation():
    shape = routing.Shape(64, 512, 8, 8, 16)  # votes of 16 MiB
    extra = memory.in_fresh_process(routing.for_memory, (shape, formulations.EINSUM, "forward", "cpu"))
    assert 15 < extra < 64


def test_a_machine_is_described_by_its_kind_not_its_host():
    facts = machine.describe()
    assert facts["kind"].endswith("-core-cpu")
    assert len(platform.node()) < 3 or platform.node() not in json.dumps(facts)


def test_ceilings_are_rates():
    rates = machine.ceilings(repeats=1, size=4 * 10**6, sides=(64,))
    assert set(rates) == {"copy", "triad", "matmul"} and min(rates.values()) > 0


def test_an_unknown_part_is_refused_with_the_nearest_name(capsys):
    assert command.main(["routin"]) == 2
    assert "did you mean 'routing'" in capsys.readouterr().err


def test_no_repeats_are_refused(capsys):
    assert command.main(["routing", "--repeats", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_new_entry_leaves_the_others(tmp_path):
    routing_store = Store("routing", folder=tmp_path)
    routing_store.add("a", {"value": 1})
    routing_store.add("b", {"value": 2})
    routing_store.add("a", {"value": 3})
    entries = store.entries(routing_store.file)
    assert {name: entry["value"] for name, entry in entries.items()} == {"a": 3, "b": 2}
    assert entries["a"]["machine"]["torch"] == torch.__version__ and not entries["a"]["trial"]


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "routing.json"
    file.write_text("{")
    with pytest.raises(CapslibError, match=r"routing\.json is not readable.*make bench"):
        store.entries(file)


def test_a_machine_without_measurements_is_refused(tmp_path):
    with pytest.raises(CapslibError, match="nothing has been measured"):
        store.read("two-core-cpu", tmp_path / "nowhere")
    with pytest.raises(CapslibError, match="did you mean 'two-core-cpu'"):
        store.read("two-core-cpus")


def test_a_gpu_is_recognized_by_its_entries(tmp_path, monkeypatch):
    Store("routing", folder=tmp_path).add("a", {})
    assert store.read_gpus(tmp_path) == {}
    monkeypatch.setattr(machine, "kind", lambda device="cpu": "gpu")
    monkeypatch.setattr(machine, "describe", lambda device="cpu": {"device": device})
    Store("routing", "cuda", folder=tmp_path).add("a", {})
    assert list(store.read_gpus(tmp_path)) == ["gpu"]
