"""Routing is measured shape by shape, nothing measured before a failure is lost, and the tables say what is in it."""

import pandas as pd
import pytest

from bench import __main__ as command
from bench import formulations, machine, results, routing, routing_results, store
from bench.formulations import EINSUM, EXPANDED, HEINSEN, OURS, OURS_DETACHED
from bench.store import Store


def test_limits_are_those_of_the_hand_estimate():
    rates = {"triad": 45e9, "matmul": 220e9}
    limits = {name: routing.limit(shape, rates) for name, shape in routing.SHAPES.items()}
    for name, forward, both in (("a", 1.7, 4.7), ("b", 3.3, 9.2), ("c", 0.9, 2.7), ("c'", 3.6, 11.3)):
        assert round(1e3 * limits[name]["forward"], 1) == forward
        assert 1e3 * limits[name]["both"] == pytest.approx(both, abs=0.06)
        assert limits[name]["forward"] < limits[name]["detached"] < limits[name]["both"]


def test_measuring_leaves_one_entry_per_shape(small, tmp_path, capsys):
    assert command.main(["routing", "--repeats", "1", "--device", "cpu", "--into", str(tmp_path)]) == 0
    measured = store.read(machine.kind(), tmp_path)
    assert list(measured["routing"]) == ["a", "c"] and measured["growth"] == {}
    for entry in measured["routing"].values():
        assert entry["trial"] and set(entry["rows"]) == set(routing.ROWS)
        assert all(row["difference"] is None or row["difference"] < 1e-5 for row in entry["rows"].values())
    assert "not final" in results.conditions(measured)
    assert "times ours" in capsys.readouterr().out


def test_a_row_that_fails_says_why_and_the_others_go_on(small, shapes, monkeypatch):
    def too_large(*_):
        raise RuntimeError("not enough memory: you tried to allocate 9 TB")

    monkeypatch.setitem(formulations.SAME_RULE, EXPANDED, too_large)
    rows = routing.compare(shapes["a"], [OURS, EXPANDED], repeats=1)
    assert "9 TB" in rows[EXPANDED]["failed"] and "both" in rows[OURS]
    entry = {"rows": rows | {EINSUM: rows[OURS], OURS_DETACHED: rows[OURS]}, "limit": {"both": 1.0, "detached": 1.0}}
    table = routing_results.comparison({"a": entry}).set_index("formulation")
    assert table.loc[EXPANDED, "(a) ms / MiB"] == "failed"


def test_an_interruption_loses_nothing_that_was_measured(small, shapes, tmp_path, monkeypatch):
    compare = routing.compare

    def interrupted(shape, *rest):
        if shape == shapes["c"]:
            raise KeyboardInterrupt
        return compare(shape, *rest)

    monkeypatch.setattr(routing, "compare", interrupted)
    assert command.main(["routing", "--repeats", "1", "--device", "cpu", "--into", str(tmp_path)]) == 130
    assert list(store.read(machine.kind(), tmp_path)["routing"]) == ["a"]


def test_growth_gives_exponents(small, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(routing, "GROWTH", {"B": (1, 2), "iterations": (1, 2)})
    monkeypatch.setattr(routing, "MIDDLE", shapes["a"])
    routing.growth(Store("growth", repeats=1, folder=tmp_path))
    points = routing_results.growth(store.read(machine.kind(), tmp_path)["growth"])
    assert len(points) == 2 * 2 * 2 * 3 and points["ms"].gt(0).all()
    assert set(points["weights"]) == {"shared", "unshared"}
    assert list(routing_results.exponents(points).columns) == ["weights", "formulation", "B", "iterations"]


def test_goals_count_what_is_met():
    def entry(ours, einsum, heinsen, least, mebibytes):
        seconds = {OURS: ours, EINSUM: einsum, HEINSEN: heinsen}
        rows = {row: {"both": {"median": value}, "MiB both": 10.0} for row, value in seconds.items()}
        rows[OURS]["MiB both"] = mebibytes
        return {"rows": rows, "limit": {"both": least}}

    table = routing_results.goals({"a": entry(1, 5, 2, 0.5, 4.0), "c'": entry(1, 1.6, 0.5, 0.1, None)})
    assert table["(a)"].str.endswith(", met").all()
    assert table["(c')"].tolist() == ["1.60, met", "2.00, not met", "not measured", "10.00, not met"]
    assert routing_results.verdict(table) == "of 8 goals 5 met, 2 not met, 1 not measured."


def test_no_gpu_is_said_in_every_cell():
    table = routing_results.on_gpus({}, {"a": "first", "b": "second"})
    assert len(table) == 2 and (table.iloc[:, 2:] == results.NOT_YET).all().all()


def test_a_gpu_is_compared_with_its_ceilings():
    rows = {row: {d: {"median": s} for d in ("forward", "both")} for row, s in ((OURS, 0.5), (EINSUM, 2.0))}
    rows[OURS]["MiB both"] = 3.0
    entry = {"rows": rows, "shape": {"B": 1, "I": 2, "J": 2**10, "D": 2**7}, "fused": {"both": [1e9, 1e12]}}
    entry["ceilings"] = {"copy": 4e9, "matmul": 8e12}
    cells = routing_results.on_gpus({"gpu": {"routing": {"a": entry}}}, {"a": "first"}).iloc[0]
    assert cells["times faster than the best eager formulation"] == "4.0" and cells["size of the votes MiB"] == "1.0"
    assert (cells["GB/s"], cells["TFLOP/s"], cells["share of the nearer ceiling"]) == ("2", "2.00", "50%")


def test_nothing_measured_gives_empty_tables():
    for table in (routing_results.details, routing_results.growth):
        assert table({}).empty
    assert routing_results.exponents(pd.DataFrame()).empty
