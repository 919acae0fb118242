"""Runs trained again, compared with the accepted records.

Trained numbers differ in their last digits between machines, and so can a prediction: this is the one place that says
by how much, and checks it. On one machine they are the same to the bit, which ``test_loop.py`` checks.
"""

import pytest

from capslib import study
from capslib.training import train

FIRST_LOSS = 0.02  # relative, of the first epoch: before small differences have grown
ACCURACY = 0.10  # absolute, of a test part of at least 64 clips, after all epochs


@pytest.mark.parametrize("model", ["cnn", "lstm", "att", "caps"])
def test_retrained_run_agrees_with_the_accepted_record(model):
    grid = study.grid(["synth_gender"], [model])
    job = grid.runs[0]
    accepted = study.store("quick").get(job.key)
    assert accepted is not None, (
        "the accepted quick records are of other code or data: run `make reproduce`, look at it, then `make accept`"
    )
    record = train(job.config)
    first, before = record["epochs"][0]["train_loss"], accepted["epochs"][0]["train_loss"]
    assert first == pytest.approx(before, rel=FIRST_LOSS)
    assert record["test"]["accuracy"] == pytest.approx(accepted["test"]["accuracy"], abs=ACCURACY)
    assert record["parameters"] == accepted["parameters"]
    assert len(record["predictions"]) == len(accepted["predictions"])


def test_every_quick_run_has_an_accepted_record():
    grid = study.grid(["synth_digits", "synth_gender", "synth_emotion"], ["cnn", "lstm", "att", "caps"])
    store = study.store("quick")
    assert not [job.config.title() for job in grid.runs if store.get(job.key) is None]
    assert not store.unreadable
