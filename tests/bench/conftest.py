"""What the tests of the bench share: two tiny shapes, and measuring without its slow parts."""

import pytest

from bench import formulations, machine, memory, routing, timing
from bench.routing import Shape


@pytest.fixture
def shapes():
    """Unshared and shared weights."""
    return {"a": Shape(3, 5, 4, 2, 6), "c": Shape(2, 4, 6, 3, 5, shared=True)}


@pytest.fixture
def small(monkeypatch, shapes):
    """Tiny shapes, constant ceilings, memory without fresh processes, and nothing that needs a compiler."""
    monkeypatch.setattr(machine, "ceilings", lambda *_: {"copy": 4e10, "triad": 4.5e10, "matmul": 2.2e11})
    monkeypatch.setattr(memory, "in_fresh_process", lambda prepare, arguments, device="cpu": 1.0)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(routing, "SHAPES", shapes)
    monkeypatch.setattr(routing, "ROWS", [row for row in formulations.ROWS if row != formulations.NATIVE])
