"""Tables and figures of what is committed, of a machine that has not measured everything, and of none."""

import numpy as np
import pandas as pd

from bench import figures, results, routing_results, store
from bench.formulations import EINSUM, NATIVE, OURS


def test_what_is_committed_can_be_read():
    measured = store.read("two-core-cpu")
    assert len(routing_results.comparison(measured["routing"])) > 4
    assert "einsum formulation" in results.conclusions(measured) and results.provenance(measured)["measured by"]


def test_a_machine_that_measured_nothing_yet_has_empty_tables():
    measured = {part: {} for part in store.PARTS}
    assert "make bench" in results.conditions(measured) and "make bench" in results.conclusions(measured)
    assert results.provenance(measured)["measured by"] == "none"
    assert results.features({}).empty and results.decoding({}).empty and results.shares({}).empty
    for table in (results.epoch({}), results.steps({}), results.whole({})):
        assert results.NOT_YET in table.iloc[0].tolist()


def test_a_formulation_that_is_not_for_a_shape_leaves_its_own_line_empty(tmp_path, monkeypatch):
    rows = [("a", OURS, 1.0), ("a", NATIVE, 0.3), ("a", EINSUM, 2.0), ("c", OURS, 1.0), ("c", EINSUM, 3.0)]
    table = pd.DataFrame(rows, columns=["shape", "formulation", "times ours"])
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, *_: saved.append(figure))
    figures.ratios(table.assign(MiB=5.0, direction="forward + backward"), "ratios", tmp_path)
    labels = [label.get_text() for label in saved[0].axes[0].get_yticklabels()]  # shared by the panels
    x, y = saved[0].axes[1].get_lines()[0].get_data()
    placed = {labels[int(place)]: value for value, place in zip(x, y, strict=True)}
    assert placed[OURS] == 1.0 and placed[EINSUM] == 3.0 and np.isnan(placed[NATIVE])
