"""Records of older code, carried over to today's where a change of code is shown to change no number.

Every number of a record comes from the code that its version names. When code is edited that cannot change a number (a new
option, a clearer sentence), some runs are made anew, and only if each is the same to the bit do the others keep their
numbers under the new version. The records say so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from capslib import corpora, paths, study, training
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.records import comparable, file_name, read, run_key
from capslib.runs import RunConfig

_OF_CODE = ("key", "code", "schema")


def configuration(described: dict) -> RunConfig:
    """The configuration of a record, from what JSON made of it."""

    def tuples(value: object) -> object:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    plain = {name: tuples(value) for name, value in described.items() if name not in ("features", "source")}
    kind = FeatureConfig(described["features"]["kind"], tuples(described["features"]["options"]))
    source = configuration(described["source"]) if "source" in described else None
    return RunConfig(**plain, features=kind, source=source)


def carry_over(
    folder: Path, train: Callable[[RunConfig], dict] = training.train, before: Path | None = None
) -> tuple[int, int]:
    """Give the records of a folder (with the weights and looks beside it) today's code version.

    Of every system (model, options, and whatever else differs from a plain run) the quickest run is made anew.

    Args:
        folder: with ``records/``, and perhaps ``weights/`` and ``insight/``.
        train: makes a record.
        before: records of the same runs that the older code made on this machine, under the same file names, for those
            that were made on another one: processors differ in last digits.
    Returns:
        How many records were carried over, and how many runs made anew.
    Raises:
        CapslibError: if a run made anew differs; no record is touched then.
    """
    older: dict[str, list[tuple[Path, dict]]] = {}
    for path in sorted((folder / "records").glob("[!.]*.json")):
        record = read(path)
        if record["code"] != study.current_code(record["config"]["model"]):
            own = {
                n: v
                for n, v in record["config"].items()
                if n not in ("corpus", "split", "seed", "epochs", "batch_size")
            }
            older.setdefault(json.dumps([own, record["code"]], sort_keys=True), []).append((path, record))
    here = [[one for one in group if corpora.find(one[1]["config"]["corpus"])] for group in older.values()]
    if not all(here):
        raise CapslibError(
            "a system has records of corpora that are not here only: nothing can be compared, set CAPSLIB_DATA"
        )
    sample = [min(group, key=lambda one: one[1]["provenance"]["seconds"]) for group in here]
    for path, record in tqdm(sample, desc="comparing", unit="run", file=sys.stderr):
        anew = json.loads(json.dumps(train(configuration(record["config"]))))
        differing = _differing(record, anew)
        here = before / path.name if before else path
        if differing and here.is_file():
            differing = _differing(read(here), anew)
        if differing:
            raise CapslibError(
                f"{path.name} made anew differs in {', '.join(sorted(differing))}: the change of code changes numbers, so the "
                "runs have to be made again"
            )
    records = [one for group in older.values() for one in group]
    for path, record in records:
        _rename(folder, path, record, len(sample))
    return len(records), len(sample)


def _differing(record: dict, anew: dict) -> list[str]:
    """Names of what is not the same to the bit."""
    mine, theirs = ({n: v for n, v in comparable(one).items() if n not in _OF_CODE} for one in (record, anew))
    return [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]


def _rename(folder: Path, path: Path, record: dict, sample: int) -> None:
    code = study.current_code(record["config"]["model"])
    key = run_key(record["config"], record["data"]["fingerprint"], code)
    note = f"made by code {record['code']}, carried over after {sample} runs came out the same to the bit"
    provenance = record["provenance"] | {"carried": [*record["provenance"].get("carried", []), note]}
    new = record | {"key": key, "code": code, "provenance": provenance}
    text = json.dumps(new, indent=None, separators=(",", ":"), sort_keys=True) + "\n"
    paths.write_text(path.with_name(file_name(record["config"], key)), text)
    path.unlink()
    for kept in (*folder.glob(f"weights/{record['key']}.*"), *folder.glob(f"insight/*-{record['key']}.json")):
        kept.rename(kept.with_name(kept.name.replace(record["key"], key)))
