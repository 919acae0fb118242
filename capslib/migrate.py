"""Records of older code, given the key of today's where a change of code is shown to change no number.

Every number of a record comes from the code that its version names. When code is edited that should not change a number
(another name, a clearer formulation), a short run of every system is made by the older code, from a checkout of it, and
by today's, on one machine; so are the outputs of the probes of such runs. Only where all are the same to the bit do
records and outputs keep their numbers under the new version, and the records say so. This is above ``study`` and
``probes`` because it deals with the files of both.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import joblib
import torch
from tqdm import tqdm

from capslib import corpora, paths, probes, study, training
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.records import comparable, file_name, read, run_key
from capslib.training import RunConfig

_APART = ("corpus", "split", "seed", "epochs", "batch_size")  # what runs of one system differ in


def configuration(described: Mapping) -> RunConfig:
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


def short_run(described: Mapping, names: Iterable[str]) -> dict:
    """The comparable part of a short run of a configuration, outputs of probes by name, and code versions."""
    config = short(configuration(described))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        record = study.train_run(config, weights)
        outputs = {}
        for name in names:
            torch.manual_seed(config.seed)
            probe = probes.PROBES[name]
            outputs[name] = probe.measure(training.restore(config, weights), *probe.given(config))
    versions = {name: probes.code_of(described, name) for name in names}
    made = {"record": comparable(record), "outputs": outputs, "code": study.code_of(described), "versions": versions}
    return json.loads(json.dumps(made))


def short_runs(systems: list[list]) -> list[dict]:
    """``short_run`` of each (configuration, names of probes), one process per core."""
    jobs = (joblib.delayed(short_run)(described, names) for described, names in systems)
    with study.executor():
        results = joblib.Parallel(return_as="generator")(jobs)
        return list(tqdm(results, total=len(systems), desc="short runs", unit="run", file=sys.stderr))


def short_runs_of(checkout: Path, systems: list[list]) -> list[dict]:
    """``short_runs`` by the code of another checkout, in its own process; CapslibError if that code cannot do it."""
    if not (checkout / "capslib").is_dir():
        raise CapslibError(f"{paths.shown(checkout)} is no checkout of capslib: give the folder of the older code")
    script = (
        "import json, sys; from capslib import migrate; print(json.dumps(migrate.short_runs(json.load(sys.stdin))))"
    )
    folders = {"PYTHONPATH": checkout.resolve(), "CAPSLIB_CACHE": paths.cache(), "CAPSLIB_DATA": paths.data()}
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    command = [sys.executable, "-c", script]
    given = {"input": json.dumps(systems), "text": True, "stdout": subprocess.PIPE}
    done = subprocess.run(command, cwd=checkout, env=environment, check=False, **given)
    if done.returncode:
        raise CapslibError(
            f"the code in {paths.shown(checkout)} could not make the runs: see above; is it a checkout of capslib?"
        )
    return json.loads(done.stdout)


def _system(record: Mapping) -> str:
    """What records share that one short run speaks for."""
    return json.dumps([{n: v for n, v in record["config"].items() if n not in _APART}, record["code"]], sort_keys=True)


def migrate(folder: Path, checkout: Path) -> tuple[int, int, int]:
    """Give the records of a folder (with what belongs to them) that the code of ``checkout`` made today's version.

    Args:
        folder: with ``records/``, and perhaps ``weights/`` and ``probes/``.
        checkout: the older code.
    Returns:
        How many records and outputs of probes were migrated; how many short runs were compared; how many records and
        outputs of other code, or of corpora that are not available, were left.
    Raises:
        CapslibError: if a short run or an output of a probe differs; no file is touched then.
    """
    records = {record["key"]: (path, record) for path, record in _read(folder / "records")}
    outputs = [
        (path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("probes/[!.]*.json"))
    ]
    outputs = [(path, output) for path, output in outputs if path.stem.partition("-")[2] in records]
    old_records = [one for one in records.values() if one[1]["code"] != study.code_of(one[1]["config"])]
    old_outputs = []
    for path, output in outputs:
        name, _, key = path.stem.partition("-")
        record = records[key][1]
        old = record["code"] != study.code_of(record["config"])  # what it was measured on changed, if not the probe
        if old or output["code"] != probes.code_of(record["config"], name):
            old_outputs.append((path, output, name, record))
    jobs = _jobs([record for _, record in old_records], [(name, record) for _, _, name, record in old_outputs])
    before = short_runs_of(checkout, [job[1:] for job in jobs]) if jobs else []
    after = short_runs([job[1:] for job in jobs])
    same: dict[str, dict[str, str]] = {}  # by system, versions of the probes whose outputs are the same
    for (system, described, _), old, new in zip(jobs, before, after, strict=True):
        if old["code"] == json.loads(system)[1]:  # else the checkout is of yet another version
            _compare(configuration(described).title(), old, new)
            same[system] = same.get(system, {}) | old["versions"]
    done = 0
    for path, output, name, record in old_outputs:
        if same.get(_system(record), {}).get(name) == output["code"]:
            code = probes.code_of(record["config"], name)
            paths.write_text(path, json.dumps(output | {"code": code}) + "\n")
            done += 1
    for path, record in old_records:
        done += _system(record) in same and _rename(folder, path, record, len(same))
    return done, len(same), len(old_records) + len(old_outputs) - done


def _read(folder: Path) -> list[tuple[Path, dict]]:
    return [(path, read(path)) for path in sorted(folder.glob("[!.]*.json"))]


def _jobs(records: list[dict], outputs: list[tuple[str, dict]]) -> list[list]:
    """Short runs that speak for all records and outputs of probes: system, configuration, names of probes.

    Of each system the quickest run, or those that its probes were measured on: a probe need not fit every corpus.
    """
    quickest: dict[tuple[str, str], dict] = {}
    for name, record in sorted(
        [*outputs, *(("", r) for r in records)], key=lambda one: one[1]["provenance"]["seconds"]
    ):
        if corpora.find(record["config"]["corpus"]) is not None:
            quickest.setdefault((_system(record), name), record["config"])
    jobs: dict[tuple[str, str], list] = {}
    for (system, name), config in quickest.items():
        if name:
            jobs.setdefault((system, json.dumps(config)), [system, config, []])[2].append(name)
    for system, config in ((system, config) for (system, name), config in quickest.items() if not name):
        if not any(system == other for other, _ in jobs):
            jobs[system, ""] = [system, config, []]
    return list(jobs.values())


def _compare(title: str, old: Mapping, new: Mapping) -> None:
    """CapslibError that names what differs, if anything does."""
    for part in ("record", "outputs"):
        mine, other = new[part], old[part]
        differing = [name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name)]
        if differing:
            names = ", ".join(sorted(differing))
            raise CapslibError(
                f"a short run of {title} differs in {names}: numbers change, so runs have to be made again"
            )


def _rename(folder: Path, path: Path, record: dict, compared: int) -> bool:
    """False where today's code made the run already."""
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
    for other in (*folder.glob(f"weights/{record['key']}.*"), *folder.glob(f"probes/*-{record['key']}.json")):
        other.rename(other.with_name(other.name.replace(record["key"], key)))
    return True
