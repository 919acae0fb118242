"""What decides a run, and the keys that rest on it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from capslib.errors import CapslibError
from capslib.records import run_key
from capslib.training import RunConfig
from capslib.training import config as config_module

CONFIG = RunConfig("folder:tones", "fold1", "caps", batch_size=4)
# What a configuration held before there were options of training; the keys of all committed records rest on these.
FIRST = (
    *("corpus", "split", "model", "options", "seed", "features", "epochs", "batch_size", "learning_rate"),
    *("gradient_clip", "max_train_clips"),
)
LATER = {
    "perturb": ("gain", (0.0, 6.0)),
    "source": dataclasses.replace(CONFIG, corpus="emodb:emotion4"),
    "segment_frames": 20,
    "order": "sorted_batches",
    "schedule": "loss_decay",
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-8,
}


def test_the_key_of_a_plain_run_rests_on_the_first_fields_alone():
    plain = dataclasses.asdict(CONFIG)
    expected = {name: plain[name] for name in FIRST}
    assert CONFIG.described() == expected
    assert run_key(CONFIG.described(), "data", "code") == run_key(expected, "data", "code")
    # Of the first fields as committed records hold them: were it another, none of those would be found again.
    assert run_key(RunConfig("fsdd:digit", "theo", "caps").described(), "data", "code") == "614fc599aae83488"


def test_every_later_field_is_described_where_it_is_not_its_default():
    assert {*FIRST, *LATER} == {field.name for field in dataclasses.fields(RunConfig)}
    keys = {run_key(CONFIG.described(), "data", "code")}
    for name, value in LATER.items():
        described = dataclasses.replace(CONFIG, **{name: value}).described()
        expected = value.described() if name == "source" else value
        assert {field: described[field] for field in described if field not in FIRST} == {name: expected}
        keys.add(run_key(described, "data", "code"))
    assert len(keys) == 1 + len(LATER)


def test_a_field_that_comes_later_changes_no_key(monkeypatch):
    monkeypatch.setattr(config_module, "OMITTED", config_module.OMITTED | {"warm_up": 0})

    @dataclasses.dataclass(frozen=True)
    class Longer(RunConfig):
        warm_up: int = 0

    assert Longer("folder:tones", "fold1", "caps", batch_size=4).described() == CONFIG.described()
    assert Longer("folder:tones", "fold1", "caps", warm_up=3).described()["warm_up"] == 3


def test_what_is_left_out_is_what_earlier_runs_did():
    """Pinned: with another value, runs of that value would get the keys of runs that did something else."""
    assert config_module.OMITTED == {
        "perturb": None,
        "source": None,
        "segment_frames": None,
        "order": "random",
        "schedule": "constant",
        "optimizer": "adam",
        "momentum": 0.0,
        "weight_decay": 0.0,
    }


def test_a_description_survives_json():
    config = dataclasses.replace(CONFIG, **LATER, options=(("num_iterations", 1),))
    again = json.loads(json.dumps(config.described()))
    assert run_key(again, "data", "code") == run_key(config.described(), "data", "code")
    assert again["source"]["corpus"] == "emodb:emotion4" and "source" not in again["source"]


def test_a_title_names_what_tells_runs_apart():
    config = dataclasses.replace(CONFIG, options=(("num_iterations", 1),), seed=2)
    assert config.title() == "caps num_iterations=1 on folder:tones, split fold1, seed 2"


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"order": "sorted"}, "unknown order 'sorted': did you mean 'sorted_batches'"),
        ({"schedule": "loss_decy"}, "unknown schedule 'loss_decy': did you mean 'loss_decay'"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg': did you mean 'sgd'"),
        ({"perturb": ("sped", (1.1,))}, "unknown perturbation 'sped': did you mean 'speed'"),
        ({"perturb": ("gain", ())}, "perturb='gain' without a level: give at least one"),
        ({"epochs": -1}, "epochs=-1, segment_frames=None: give epochs from 0 on"),
        ({"segment_frames": 0}, "segment_frames=0: give epochs from 0 on, and segments of at least one frame"),
        (
            {"source": dataclasses.replace(CONFIG, corpus="a:b", source=CONFIG)},
            "its source has a source itself: leave that out",
        ),
    ],
)
def test_what_no_run_can_have_is_named(changes, says):
    with pytest.raises(CapslibError, match=says):
        dataclasses.replace(CONFIG, **changes)
