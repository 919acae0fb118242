"""Versions of code: what a result can reach changes them, and nothing else does."""

from __future__ import annotations

import itertools
import json
import textwrap

import pytest

from capslib import keys, models, paths, probes, study
from capslib.errors import CapslibError
from capslib.records import Store, run_key

PACKAGE = {
    "loop": """
        '''Trains.'''
        import numpy as np
        from {root} import helpers
        from {root}.layers import Loss

        SCHEDULES = {{"constant": None, "decay": helpers.decay}}

        def train(x: float, config):
            '''Double.'''
            # twice
            total = 0
            for _ in range(2):
                total += x
            if total < 0:
                raise ValueError("below zero")
            schedule = SCHEDULES[config]
            return np.sum(total + helpers.one()) + Loss().value
    """,
    "helpers": """
        STEP = 1

        def one():
            return [value for value in (STEP,)][0]

        def decay():
            return 2

        def unused():
            return 3

        MORE = {{"other": 1}}
    """,
    "layers.__init__": "from {root}.layers.loss import Loss\nfrom {root}.layers.plain import Plain\n",
    "layers.loss": "class Base:\n    value = 0\n\nclass Loss(Base):\n    pass\n",
    "layers.plain": "class Plain:\n    size = 1\n",
}
_COUNT = itertools.count()


@pytest.fixture
def version(tmp_path, monkeypatch):
    """The version of ``loop.train`` in a package like the one above, with some modules written anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def version(changed: dict[str, str] | None = None, *chosen: str) -> str:
        root = f"toy{next(_COUNT)}"  # a package of its own, because modules are read once
        for name, source in {"__init__": "", **PACKAGE, **(changed or {})}.items():
            file = tmp_path.joinpath(root, *name.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source).format(root=root), encoding="utf-8")
        return keys.code_version([(f"{root}.loop", "train")], chosen or ("constant",))

    return version


def edited(module: str, old: str, new: str) -> dict[str, str]:
    source = textwrap.dedent(PACKAGE[module])
    assert old in source
    return {module: source.replace(old, new)}


SAME = {
    "module's docstring": ("loop", "'''Trains.'''", ""),
    "docstring": ("loop", "'''Double.'''", "'''Twice\n\n    as much.'''"),
    "comment": ("loop", "# twice", "# thrice"),
    "format": ("loop", "range(2)", "range(\n        2,\n    )"),
    "annotation": ("loop", "x: float", "x: int"),
    "local name": ("loop", "total", "result"),
    "words of an error": ("loop", "below zero", "negative"),
    "import": ("loop", "import numpy as np\n", "import numpy\nimport numpy as np\n"),
    "definition that is not used": ("helpers", "return 3", "return 4"),
    "entry that is not chosen": ("helpers", "return 2", "return 5"),
    "another entry": ("loop", '"decay": helpers.decay', '"decay": helpers.decay, "step": helpers.unused'),
    "layer that is not used": ("layers.plain", "size = 1", "size = 2"),
}
OTHER = {
    "number": ("loop", "range(2)", "range(3)"),
    "operator": ("loop", "total += x", "total -= x"),
    "indentation": ("loop", "    if total < 0:\n        raise", "        if total < 0:\n            raise"),
    "condition of an error": ("loop", "total < 0", "total < 1"),
    "function of a library": ("loop", "np.sum", "np.mean"),
    "parameter": ("loop", "x: float, config", "config, x: float"),
    "constant of another module": ("helpers", "STEP = 1", "STEP = 2"),
    "function of another module": ("helpers", "in (STEP,)", "in (STEP, STEP)"),
    "base class": ("layers.loss", "value = 0", "value = 1"),
    "class behind a package": ("layers.loss", "    pass", "    value = 2"),
    "statement at the top": ("helpers", "STEP = 1", "STEP = 1\nprint"),
    "statement at the top of a package": ("layers.__init__", "import Plain\n", "import Plain\nprint()\n"),
    "starred parameter": ("loop", "x: float, config", "x: float, *config"),
    "what a comprehension goes through": ("helpers", "[value for value in (STEP,)]", "[STEP for STEP in (STEP, 2)]"),
    "constant that a function assigns": ("helpers", "def one():\n", "def one():\n    global STEP\n    STEP = 2\n"),
    "entries from elsewhere": ("loop", '"constant": None,', '"constant": None, **helpers.MORE,'),
    "chosen entry": ("loop", '"constant": None', '"constant": helpers.unused'),
}


@pytest.mark.parametrize("what", SAME)
def test_what_cannot_change_a_number_does_not_change_the_version(version, what):
    assert version(edited(*SAME[what])) == version()


@pytest.mark.parametrize("what", OTHER)
def test_what_can_change_a_number_changes_the_version(version, what):
    assert version(edited(*OTHER[what])) != version()


def test_a_chosen_entry_brings_what_it_can_reach(version):
    assert version({}, "decay") != version()
    assert version(edited("helpers", "return 2", "return 5"), "decay") != version({}, "decay")


def test_where_a_definition_lives_does_not_matter(version):
    moved = PACKAGE["helpers"].replace("        STEP = 1\n", "        from {root}.constants import STEP\n")
    assert version({"helpers": moved, "constants": "STEP = 1\n"}) == version()
    by_name = edited("loop", "helpers.one()", "one()")["loop"].replace("import helpers", "import helpers, helpers as h")
    assert version({"loop": by_name + "\nfrom {root}.helpers import one\n"}) == version()


CLASH = "class Base: ...\n\ndef one(): ...\n\nclass Loss(Base):\n    value = one()\n"
TWICE = "\n        from math import pi\n        from cmath import pi\n"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"helpers": "def decay(): ...\n"}, "defines no 'one'"),
        ({"helpers": PACKAGE["helpers"] + "\n        from .layers import Loss\n"}, "by the whole path"),
        ({"helpers": PACKAGE["helpers"] + "\n        from math import *\n"}, "by the whole path"),
        ({"layers.loss": CLASH}, "both define 'one'"),
        ({"helpers": PACKAGE["helpers"] + TWICE}, "two modules"),
    ],
)
def test_what_keys_cannot_follow_is_refused(version, changed, says):
    with pytest.raises(CapslibError, match=says):
        version(changed)


def reached(model: str) -> set[str]:
    roots = (study.grids.TRAIN, (models.home(model), "MODELS"))
    return {name for _, name in keys.reachable(roots, frozenset({model, "mfcc", "constant", *models.words(model)}))}


def test_baselines_do_not_depend_on_routing_and_capsules_do():
    """So that work on capsule layers leaves the baselines' records standing."""
    for name in ("cnn", "lstm", "att"):
        assert not {"route", "CapsuleLayer", "CapsNet"} & reached(name)
        assert {"MFCC", "Standardize", "AudioModel", "train"} <= reached(name)
    assert {"route", "CapsuleLayer", "CapsNet", "BiLSTM", "MarginLoss"} <= reached("caps")
    assert "LSTM" not in reached("caps") and "CapsNet" not in reached("cnn_seqcap")


def test_a_system_does_not_depend_on_its_siblings():
    assert "RecurrentCapsules" not in reached("cnn_seqcap") and "LSTMCap" not in reached("cnn_gru")


COMMITTED = [paths.root() / "reports" / "full", study.accepted()]


@pytest.mark.parametrize("folder", COMMITTED, ids=["full", "quick"])
def test_every_committed_record_is_of_the_code_of_today(folder):
    store = Store((folder / "records",))
    assert len(store) and not store.unreadable
    for record in store:
        code = study.code_of(record["config"])
        assert record["code"] == code, f"{record['key']}: see `python -m capslib migrate`"
        assert record["key"] == run_key(record["config"], record["data"]["fingerprint"], code)


@pytest.mark.parametrize("folder", COMMITTED, ids=["full", "quick"])
def test_every_committed_output_of_a_probe_is_of_the_code_of_today(folder):
    store, seen = Store((folder / "records",)), set()
    for file in sorted((folder / "probes").glob("[!.]*.json")):
        name, _, key = file.stem.partition("-")
        assert json.loads(file.read_text())["code"] == probes.code_of(store.get(key)["config"], name), file.name
        seen.add(name)
    assert seen == set(probes.PROBES)
