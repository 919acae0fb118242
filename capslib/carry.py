"""Records of older code, carried over to today's where a change of code is shown to change no number.

Every number of a record comes from the code that its version names. When code is edited that should not change a number (a new
option, a clearer sentence), a short run of every system is made by the older code, from a checkout of it, and by today's, on
one machine. Only if all are the same to the bit do the records keep their numbers under the new version, and they say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from capslib import corpora, paths, study, training
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.records import comparable, file_name, read, run_key
from capslib.runs import RunConfig

_APART = ("corpus", "split", "seed", "epochs", "batch_size")  # what runs of one system differ in


def configuration(described: dict) -> RunConfig:
    """The configuration of a record, from what JSON made of it."""

    def tuples(value: object) -> object:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    plain = {name: tuples(value) for name, value in described.items() if name not in ("features", "source")}
    kind = FeatureConfig(described["features"]["kind"], tuples(described["features"]["options"]))
    source = configuration(described["source"]) if "source" in described else None
    return RunConfig(**plain, features=kind, source=source)


def short(config: RunConfig) -> RunConfig:
    """One epoch on 64 clips: everything that a run goes through, in seconds."""
    source = config.source and short(config.source)
    return replace(config, epochs=min(1, config.epochs), max_train_clips=64, source=source)


def made_here(described: Iterable[dict]) -> list[dict]:
    """Code version of each configuration and the comparable part of a short run of it."""
    return [
        {
            "code": study.code_of(config),
            "record": json.loads(json.dumps(comparable(training.train(short(configuration(config)))))),
        }
        for config in tqdm(list(described), desc="short runs", unit="run", file=sys.stderr)
    ]


def made_there(checkout: Path, described: list[dict]) -> list[dict]:
    """``made_here`` by the code of another checkout, in a process of its own.

    Raises:
        CapslibError: if that code cannot do it.
    """
    script = "import json, sys; from capslib import carry; print(json.dumps(carry.made_here(json.load(sys.stdin))))"
    environment = os.environ | {
        "PYTHONPATH": str(checkout.resolve()),
        "CAPSLIB_CACHE": str(paths.cache()),
        "CAPSLIB_DATA": str(paths.data()),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(described), cwd=checkout, env=environment,
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise CapslibError(
            f"the code in {paths.shown(checkout)} could not make the runs: see above; is it a checkout of capslib?"
        )
    return json.loads(done.stdout)


def carry_over(folder: Path, checkout: Path) -> tuple[int, int, int]:
    """Give the records of a folder (with the weights and looks beside it) that the code of ``checkout`` made today's version.

    Args:
        folder: with ``records/``, and perhaps ``weights/`` and ``probes/``.
        checkout: the older code.
    Returns:
        How many records were carried over; how many short runs were compared; how many records of other code were left.
    Raises:
        CapslibError: if a short run differs; no record is touched then.
    """
    found = [(path, read(path)) for path in sorted((folder / "records").glob("[!.]*.json"))]
    older = [one for one in found if one[1]["code"] != study.code_of(one[1]["config"])]
    systems: dict[str, dict] = {}
    for _, record in sorted(older, key=lambda one: one[1]["provenance"]["seconds"]):
        config = record["config"]
        if corpora.find(config["corpus"]) is not None:
            own = {name: value for name, value in config.items() if name not in _APART}
            systems.setdefault(json.dumps([own, record["code"]], sort_keys=True), record)
    before = made_there(checkout, [record["config"] for record in systems.values()]) if systems else []
    theirs = {name: made for name, made in zip(systems, before, strict=True) if made["code"] == systems[name]["code"]}
    after = made_here(systems[name]["config"] for name in theirs)
    for name, made in zip(theirs, after, strict=True):
        mine, other = made["record"], theirs[name]["record"]
        differing = [n for n in mine.keys() | other.keys() if mine.get(n) != other.get(n)]
        if differing:
            raise CapslibError(
                f"a short run of {configuration(systems[name]['config']).title()} differs in {', '.join(sorted(differing))}: "
                "the change of code changes numbers, so the runs have to be made again"
            )
    carried = 0
    for path, record in older:
        own = {name: value for name, value in record["config"].items() if name not in _APART}
        if json.dumps([own, record["code"]], sort_keys=True) in theirs:
            carried += _rename(folder, path, record, len(theirs))
    return carried, len(theirs), len(older) - carried


def _rename(folder: Path, path: Path, record: dict, compared: int) -> bool:
    """False where the run was made by today's code already."""
    code = study.code_of(record["config"])
    key = run_key(record["config"], record["data"]["fingerprint"], code)
    target = path.with_name(file_name(record["config"], key))
    if target.is_file():
        return False
    note = f"made by code {record['code']}; short runs of {compared} systems by both codes were the same to the bit"
    provenance = record["provenance"] | {"carried": [*record["provenance"].get("carried", []), note]}
    new = record | {"key": key, "code": code, "provenance": provenance}
    paths.write_text(target, json.dumps(new, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
    path.unlink()
    for kept in (*folder.glob(f"weights/{record['key']}.*"), *folder.glob(f"probes/*-{record['key']}.json")):
        kept.rename(kept.with_name(kept.name.replace(record["key"], key)))
    return True
