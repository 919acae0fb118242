"""The bench measures what it says: the same function under every name, real memory, nothing lost. No test asserts a time."""

import gc
import json
import platform
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from bench import __main__ as command
from bench import features, formulations, machine, memory, routing, timing, training
from bench import figures as figures_speed
from bench import results as speed
from bench import routing_results as speed_routing
from bench.routing import Shape
from bench.store import Shelf
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.layers import BiLSTM
from capslib.layers.routing import route_reference
from capslib.training import Part, RunConfig

TINY = {"a": Shape(3, 5, 4, 2, 6), "c": Shape(2, 4, 6, 3, 5, shared=True)}
# The C++ passes need a compiler; tests of the layers compare them.
ROWS = [row for row in formulations.SAME_RULE if row != speed.NATIVE]


@pytest.fixture
def small(monkeypatch):
    """Ceilings in milliseconds, and memory without fresh processes."""
    monkeypatch.setattr(machine, "ceilings", lambda *_: {"copy": 4e10, "triad": 4.5e10, "matmul": 2.2e11})
    monkeypatch.setattr(memory, "in_fresh_process", lambda prepare, arguments, device="cpu": 1.0)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(routing, "SHAPES", TINY)
    monkeypatch.setattr(routing, "ROWS", [*ROWS, speed.HEINSEN])


def drawn(shape, dtype=torch.float64):
    random = torch.Generator().manual_seed(1)
    own = () if shape.shared else (shape.I,)
    u = torch.randn(shape.B, shape.I, shape.F, generator=random, dtype=dtype, requires_grad=True)
    return u, torch.randn(*own, shape.J, shape.F, shape.D, generator=random, dtype=dtype, requires_grad=True)


def gradients(call, u, weight, iterations):
    v = call(u, weight, iterations)
    return v, *torch.autograd.grad((v * torch.arange(v.numel(), dtype=v.dtype).view_as(v).cos()).sum(), (u, weight))


class TestFormulations:
    @pytest.mark.parametrize("shape", TINY.values(), ids=str)
    @pytest.mark.parametrize("row", ROWS)
    @pytest.mark.parametrize("iterations", [1, 3])
    def test_every_row_of_the_same_rule_is_the_reference(self, row, shape, iterations):
        detached = row in speed.DETACHED
        found = gradients(formulations.SAME_RULE[row], *drawn(shape), iterations)
        reference = gradients(
            lambda u, w, n: route_reference(u, w, n, detach_iterations=detached)[0], *drawn(shape), iterations
        )
        for a, b in zip(found, reference, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)

    def test_masked_inputs_contribute_nothing_to_the_einsum_formulation(self):
        u, weight = drawn(TINY["c"])
        mask = torch.tensor([[True, True, False, True], [True] * 4])
        votes = formulations.einsum_votes(u, weight)
        v = formulations.routed_by_einsum(votes, 3, mask)
        alone = formulations.routed_by_einsum(formulations.einsum_votes(u[:1, [0, 1, 3]], weight), 3)
        assert torch.allclose(v[0], alone[0])

    @pytest.mark.parametrize("inputs", [5, None])
    def test_heinsen_s_rule_is_its_equations(self, inputs):
        torch.manual_seed(0)
        layer = formulations.HeinsenRouting(inputs, 4, 3, 6).double()
        for parameter in (layer.b, layer.o, layer.h, layer.t):
            torch.nn.init.normal_(parameter)
        x = torch.randn(5, 4, dtype=torch.float64)
        use, ignore = (layer.use, layer.ignore) if inputs else (layer.use_of(x), layer.ignore_of(x))
        w, b, s, t = (p.expand(5, *p.shape[1:]) for p in (layer.w, layer.b, layer.s, layer.t))
        y = None
        for _ in range(3):
            following = torch.zeros(3, 6, dtype=torch.float64)
            for i in range(5):
                scaled = x[i] / 5**0.5
                active = torch.sigmoid(w[i] @ scaled + b[i])
                share = torch.full((3,), 1 / 3, dtype=torch.float64)
                if y is not None:
                    normal = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
                    predicted = (normal @ layer.Q) * layer.g + layer.h
                    share = torch.sigmoid(s[i] * (predicted @ x[i]) + t[i]).log().softmax(-1)
                for j in range(3):
                    vote = (scaled * layer.f[j]) @ layer.P + layer.o[j]
                    gain = use[i, j] * active * share[j] - ignore[i, j] * active * (1 - share[j])
                    following[j] = following[j] + gain * vote
            y = following
        expected = torch.nn.functional.layer_norm(y, (6,))
        assert torch.allclose(layer(x[None])[0], expected)


class TestTiming:
    def test_candidates_take_turns_and_everybody_begins_once(self):
        order = []
        calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
        found = timing.in_turns(calls, repeats=2, turn_seconds=0.0)
        assert "".join(order) == "abcbcacab"
        assert {value["repeats"] for value in found.values()} == {2}

    def test_quick_candidates_are_called_often_enough(self):
        called = []
        timing.in_turns({"quick": lambda: called.append(0)}, repeats=1, turn_seconds=0.01)
        assert len(called) > 10

    def test_the_collector_is_off_meanwhile_and_on_again_after_an_error(self):
        seen = []
        timing.in_turns({"a": lambda: seen.append(gc.isenabled())}, repeats=1, turn_seconds=0.0)
        assert not any(seen) and gc.isenabled()
        with pytest.raises(ZeroDivisionError):
            timing.in_turns({"a": lambda: 1 / 0})
        assert gc.isenabled()

    def test_median_and_quartiles(self):
        assert timing.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "lower": 2.0, "upper": 4.0, "repeats": 5}


class TestMemory:
    def test_peak_is_what_was_allocated_even_if_it_is_gone(self):
        def call():
            torch.ones(16 * 2**20).sum()
            return torch.ones(2**20)

        assert memory.peak(call, []) == pytest.approx(64, abs=6)

    def test_gradients_of_parameters_do_not_count(self):
        weight = torch.ones(8 * 2**20, requires_grad=True)
        weight.sum().backward()
        assert memory.peak(lambda: weight.sum().backward(), [weight]) < 6
        assert memory.peak(lambda: weight.sum().backward(), []) < 6 or weight.grad is not None

    def test_where_the_system_does_not_tell_there_is_no_number(self, monkeypatch):
        def missing(_):
            raise FileNotFoundError

        monkeypatch.setattr(memory, "_status", missing)
        assert memory.peak(lambda: None, []) is None

    def test_a_fresh_process_sees_the_votes_of_the_einsum_formulation(self):
        shape = Shape(64, 512, 8, 8, 16)  # votes of 16 MiB
        extra = memory.in_fresh_process(routing.for_memory, (shape, speed.PEER, "forward", "cpu"))
        assert 15 < extra < 64


class TestMachine:
    def test_names_a_kind_not_a_host(self):
        facts = machine.describe()
        assert facts["kind"].endswith("-core-cpu")
        assert len(platform.node()) < 3 or platform.node() not in json.dumps(facts)

    def test_ceilings_are_rates(self):
        found = machine.ceilings(repeats=1, size=4 * 10**6, sides=(64,))
        assert set(found) == {"copy", "triad", "matmul"} and min(found.values()) > 0


class TestRouting:
    def test_limits_are_those_of_the_hand_estimate(self):
        rates = {"triad": 45e9, "matmul": 220e9}
        found = {name: routing.limit(shape, rates) for name, shape in routing.SHAPES.items()}
        for name, forward, both in (("a", 1.7, 4.7), ("b", 3.3, 9.2), ("c", 0.9, 2.7), ("c'", 3.6, 11.3)):
            assert round(1e3 * found[name]["forward"], 1) == forward
            assert 1e3 * found[name]["both"] == pytest.approx(both, abs=0.06)
            assert found[name]["forward"] < found[name]["detached"] < found[name]["both"]

    def test_measuring_leaves_an_entry_a_shape(self, small, tmp_path, capsys):
        assert command.main(["routing", "--repeats", "1", "--device", "cpu", "--into", str(tmp_path)]) == 0
        parts = speed.read(machine.kind(), tmp_path)
        assert list(parts["routing"]) == ["a", "c"] and parts["growth"] == {}
        for entry in parts["routing"].values():
            assert entry["trial"] and set(entry["rows"]) == {*ROWS, speed.HEINSEN}
            assert all(row["difference"] is None or row["difference"] < 1e-5 for row in entry["rows"].values())
        assert "not final" in speed.first_line(parts)
        assert "times ours" in capsys.readouterr().out

    def test_a_row_that_fails_says_why_and_the_others_go_on(self, small, monkeypatch):
        def too_large(*_):
            raise RuntimeError("not enough memory: you tried to allocate 9 TB")

        monkeypatch.setitem(formulations.SAME_RULE, speed.PORT, too_large)
        rows = routing.compare(TINY["a"], [speed.OURS, speed.PORT], repeats=1)
        assert "9 TB" in rows[speed.PORT]["failed"] and "both" in rows[speed.OURS]
        entry = {"rows": rows | {speed.PEER: rows[speed.OURS], speed.OURS_DETACHED: rows[speed.OURS]}}
        entry |= {"limit": {"both": 1.0, "detached": 1.0}}
        table = speed_routing.compared({"a": entry}).set_index("formulation")
        assert table.loc[speed.PORT, "(a) ms / MiB"] == "failed"

    def test_an_interruption_keeps_what_was_measured(self, small, tmp_path, monkeypatch):
        measured = routing.compare

        def interrupted(shape, *rest):
            if shape == TINY["c"]:
                raise KeyboardInterrupt
            return measured(shape, *rest)

        monkeypatch.setattr(routing, "compare", interrupted)
        assert command.main(["routing", "--repeats", "1", "--device", "cpu", "--into", str(tmp_path)]) == 130
        assert list(speed.read(machine.kind(), tmp_path)["routing"]) == ["a"]

    def test_growth_gives_exponents(self, small, tmp_path, monkeypatch):
        monkeypatch.setattr(routing, "GROWTH", {"B": (1, 2), "iterations": (1, 2)})
        monkeypatch.setattr(routing, "MIDDLE", TINY["a"])
        routing.growth(Shelf("growth", repeats=1, folder=tmp_path))
        points = speed_routing.growth(speed.read(machine.kind(), tmp_path)["growth"])
        assert len(points) == 2 * 2 * 2 * 3 and points["ms"].gt(0).all()
        assert list(speed_routing.slopes(points).columns) == ["matrices", "formulation", "B", "iterations"]


class TestCommand:
    def test_an_unknown_part_is_refused_with_the_nearest_name(self, capsys):
        assert command.main(["routin"]) == 2
        assert "did you mean 'routing'" in capsys.readouterr().err

    def test_no_repeats_are_refused(self, capsys):
        assert command.main(["routing", "--repeats", "0"]) == 2
        assert "at least 1" in capsys.readouterr().err


class TestStore:
    def test_a_new_entry_leaves_the_others(self, tmp_path):
        shelf = Shelf("routing", folder=tmp_path)
        shelf.keep("a", {"value": 1})
        shelf.keep("b", {"value": 2})
        shelf.keep("a", {"value": 3})
        found = speed.entries(shelf.file)
        assert {name: entry["value"] for name, entry in found.items()} == {"a": 3, "b": 2}
        assert found["a"]["machine"]["torch"] == torch.__version__ and not found["a"]["trial"]

    def test_a_damaged_file_is_named(self, tmp_path):
        file = tmp_path / "routing.json"
        file.write_text("{")
        with pytest.raises(CapslibError, match=r"routing\.json is not readable.*make bench"):
            speed.entries(file)
        with pytest.raises(CapslibError, match="nothing has been measured"):
            speed.read("two-core-cpu", tmp_path / "nowhere")


class TestFeatures:
    @pytest.mark.parametrize("kind", features.KINDS)
    @pytest.mark.parametrize("name", ["librosa", "torchaudio, batches"])
    def test_libraries_agree_where_definitions_do(self, name, kind):
        assert features.agreement(name, kind, features.clips(2, 0.5))["lowest"] > 0.999

    def test_measuring_lists_what_is_missing(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(features.PACKAGES, "nowhere", "no_such_package")
        monkeypatch.setattr(features, "speeds", lambda kind, names, *_: {
            way: {name: {"median": 0.5} for name in names} for way in ("one thread", "two threads", "two processes")
        })  # fmt: skip
        monkeypatch.setattr(features, "agreement", lambda *_: {"median": 1.0, "lowest": 1.0, "frames": 3})
        features.measure(Shelf("features", repeats=1, folder=tmp_path), count=2, seconds=0.1)
        assert "nowhere: not installed" in capsys.readouterr().out
        measured = speed.read(machine.kind(), tmp_path)["features"]
        table = speed.features(measured).set_index("library")
        assert (table.loc["nowhere", "one thread"] == "not installed").all()
        assert (table.loc["librosa", "one thread"] == "4").all()
        assert list(dict.fromkeys(speed.decoding(measured)["files"])) == ["wav", "flac", "ogg"]

    def test_two_cores_are_never_slower_than_one(self):
        one, two = ({"capslib": {"median": a}, "librosa": {"median": b}} for a, b in ((1.0, 4.0), (0.5, 9.0)))
        entry = {"clips": 8, "missing": [], "speeds": {"one thread": one, "two processes": two}}
        entry["agreement"] = {name: {"median": 1.0, "lowest": 1.0, "frames": 3} for name in one}
        table = speed.features({"MFCC-60": entry}).set_index("library")
        assert table.loc["librosa", "two cores"] == "8.00"  # 16 clips a second of ours over librosa's 2 on one thread


class TestTraining:
    @pytest.fixture
    def setting(self):
        random = torch.Generator().manual_seed(0)
        clips = [torch.randn(length, 6, generator=random) for length in (9, 5, 7, 8)]
        config = RunConfig("synth_digits:digit", "none", "caps", features=FeatureConfig(), batch_size=2)
        return training.Setting(config, Part(clips, torch.tensor([0, 1, 2, 0])), 3)

    def test_shares_sum_to_one_and_every_layer_is_seen(self, setting):
        found = training.shares(setting)
        assert set(found) == {*training.P0_LAYERS.values(), "optimizer", "collation", "other"}
        assert sum(found.values()) == pytest.approx(1)
        assert min(found.values()) > 0

    def test_backward_belongs_to_the_layer_that_made_it(self):
        def event(name, microseconds, number=-1, parent=None):
            length = SimpleNamespace(elapsed_us=lambda: microseconds)
            return SimpleNamespace(name=name, time_range=length, sequence_nr=number, cpu_parent=parent)

        layer = event("share:routing", 10, parent=event("share:epoch", 100))
        found = training.attribute(
            [layer.cpu_parent, layer, event("aten::mm", 4, 7, parent=layer), event("aten::mm", 5, 8, layer.cpu_parent)]
            + [event("autograd::engine::evaluate_function: MmBackward0", 20, number) for number in (7, 8)]
            + [event("Optimizer.step#Adam.step", 30)],
            ["routing"],
        )
        assert found["routing"] == 0.3 and found["optimizer"] == 0.3 and found["other"] == 0.4

    def test_the_usual_model_has_the_same_size_and_none_of_our_layers(self, setting):
        ours, usual = setting.model(), training.usual(setting.model())
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in usual.parameters())
        assert not [module for module in usual.modules() if isinstance(module, BiLSTM)]
        assert isinstance(usual.capsules.routing, training.EinsumRouting)

    def test_both_epochs_train(self, setting):
        for epoch in (training.our_epoch(setting), training.usual_epoch(setting)):
            assert np.isfinite([epoch(), epoch()]).all()

    def test_measuring_gives_a_ratio(self, setting, tmp_path):
        training.measure(Shelf("training", repeats=1, folder=tmp_path), setting)
        measured = speed.read(machine.kind(), tmp_path)["training"]
        assert set(speed.epoch(measured)["training"]) == {"capslib", "as usually written"}
        assert speed.shares(measured)["share"].sum() == pytest.approx(1)

    def test_p2_s_steps_and_epoch_are_measured(self, tmp_path, small):
        batch, random = (2, 45, 64), torch.Generator().manual_seed(0)
        part = Part(list(torch.randn(3, 45, 64, generator=random)), torch.tensor([0, 1, 3]))
        config = RunConfig("synth_emotion:emotion", "fold1", "cnn_seqcap", batch_size=2, schedule="loss_decay")
        training.measure_emotion(Shelf("emotion", repeats=1, folder=tmp_path), training.Setting(config, part, 4), batch)
        measured = speed.read(machine.kind(), tmp_path)["emotion"]
        assert list(speed.steps(measured)["system"]) == [*training.STEPS, training.LARGEST]
        assert speed.steps(measured).set_index("system").loc["CNN_SeqCap", "times CNN_SeqCap"] == "1.00"
        assert speed.shares(measured)["share"].sum() == pytest.approx(1)
        assert {"CNN component", "primary capsules", "routing"} <= set(speed.shares(measured)["part"])
        said = speed.step_goals(measured).split("; ")
        assert len(said) == 3 and all(goal.endswith((" met", " not met")) for goal in said)
        assert len(speed.epoch(measured)) == 1

    def test_a_step_for_memory_trains(self):
        call, small_call, parameters = training.step_for_memory("CNN_RecCap", (2, 45, 64))
        assert np.isfinite([call(), small_call()]).all() and all(p.grad is not None for p in parameters)


class TestTables:
    def test_no_gpu_is_said_in_every_cell(self):
        table = speed_routing.on_gpu({}, {"a": "first", "b": "second"})
        assert len(table) == 2 and (table.iloc[:, 2:] == speed.NOT_YET).all().all()

    def test_goals_count_what_is_met(self):
        def entry(ours, peer, heinsen, least, mib):
            rows = {speed.OURS: ours, speed.PEER: peer, speed.HEINSEN: heinsen}
            made = {row: {"both": {"median": seconds}, "MiB both": 10.0} for row, seconds in rows.items()}
            made[speed.OURS]["MiB both"] = mib
            return {"rows": made, "limit": {"both": least}}

        table = speed_routing.goals({"a": entry(1, 5, 2, 0.5, 4.0), "c'": entry(1, 1.6, 0.5, 0.1, None)})
        assert table["(a)"].str.endswith(", met").all()
        assert table["(c')"].tolist() == ["1.60, met", "2.00, not met", "not measured", "10.00, not met"]
        assert speed_routing.verdict(table) == "of 8 goals 5 met, 2 not met, 1 not measured."

    def test_a_machine_that_measured_nothing_yet_has_empty_tables(self):
        parts = {part: {} for part in speed.PARTS}
        assert "make bench" in speed.first_line(parts) and "make bench" in speed.meaning(parts)
        assert speed.provenance(parts)["measured by"] == "none"
        for table in (speed_routing.everything, speed_routing.growth, speed.features):
            assert table({}).empty
        assert speed_routing.slopes(speed_routing.growth({})).empty and speed.shares({}).empty

    def test_what_is_committed_can_be_read(self):
        parts = speed.read("two-core-cpu")
        assert all(isinstance(found, dict) for found in parts.values())
        assert isinstance(speed_routing.compared(parts["routing"]), pd.DataFrame)
        assert speed.meaning(parts) and speed.provenance(parts)

    def test_an_unknown_machine_is_refused_with_the_nearest_name(self):
        with pytest.raises(CapslibError, match="did you mean 'two-core-cpu'"):
            speed.read("two-core-cpus")

    def test_a_formulation_that_is_not_for_a_shape_leaves_its_own_line_empty(self, tmp_path, monkeypatch):
        rows = [
            ("a", speed.OURS, 1.0),
            ("a", speed.NATIVE, 0.3),
            ("a", speed.PEER, 2.0),
            ("c", speed.OURS, 1.0),
            ("c", speed.PEER, 3.0),
        ]
        table = pd.DataFrame(rows, columns=["shape", "formulation", "times ours"]).assign(
            MiB=5.0, direction="forward + backward"
        )
        drawn = []
        monkeypatch.setattr(figures_speed, "save", lambda figure, *_: drawn.append(figure))
        figures_speed.ratios(table, "ratios", tmp_path)
        axis = drawn[0].axes[1]
        labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]  # shared by the panels
        x, y = axis.get_lines()[0].get_data()
        placed = {labels[int(place)]: value for value, place in zip(x, y, strict=True)}
        assert placed[speed.OURS] == 1.0 and placed[speed.PEER] == 3.0 and np.isnan(placed[speed.NATIVE])
