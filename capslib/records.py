"""Records: one file per run, written whole or not at all, looked up by what decided the run."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from capslib import paths
from capslib.errors import CapslibError

SCHEMA = 1
# What may differ between two records of the same run on the same machine.
VOLATILE = ("provenance",)


def run_key(config: dict, data_fingerprint: str, code: str) -> str:
    """The key of a run: SHA-256 (16 digits) of configuration (with fold and seed), data and code."""
    text = json.dumps([SCHEMA, config, data_fingerprint, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_name(config: dict, key: str) -> str:
    """Readable, and unique by the key: ``fsdd-digit_caps_theo_s0_<key>.json``."""
    words = [config["corpus"], config["model"], config["split"], f"s{config['seed']}", key]
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in words) + ".json"


def read(path: Path) -> dict:
    """One record.

    Raises:
        CapslibError: if the file is no record, or one of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CapslibError(f"{paths.shown(path)} is not a readable record ({error}): delete it") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise CapslibError(
            f"{paths.shown(path)} is a record of version {schema}, this capslib reads version {SCHEMA}: it is run again"
        )
    lacking = sorted({"key", "config", "provenance"} - record.keys())
    if lacking:
        raise CapslibError(f"{paths.shown(path)} lacks {', '.join(lacking)}: delete it, and it is run again")
    return record


@dataclass
class Store:
    """Folders of records: looked up in order, written to the last.

    Attributes:
        folders: where records are read.
        unreadable: one sentence for each file that is no record of this version; such runs are made again.
    """

    folders: tuple[Path, ...]
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._records: dict[str, dict] = {}
        for folder in self.folders:
            for path in sorted(folder.glob("[!.]*.json")):  # hidden ones were being written when a process was killed
                try:
                    record = read(path)
                except CapslibError as error:
                    self.unreadable.append(str(error))
                    continue
                self._records.setdefault(record["key"], record)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[dict]:
        return iter(self._records.values())

    def get(self, key: str) -> dict | None:
        """The record of a run, or None."""
        return self._records.get(key)

    def older(self, config: dict) -> dict | None:
        """A record of the same configuration, of other code or data; the latest, if there are several."""
        text = json.dumps(config, sort_keys=True)
        same = [r for r in self._records.values() if json.dumps(r["config"], sort_keys=True) == text]
        return max(same, key=lambda r: r["provenance"]["date"], default=None)

    def put(self, record: dict) -> Path:
        """Write a record to the last folder, atomically."""
        path = self.folders[-1] / file_name(record["config"], record["key"])
        paths.write_text(path, json.dumps(record, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
        self._records[record["key"]] = record
        return path


def comparable(record: dict) -> dict:
    """What must be equal when the same run is made twice on one machine."""
    return {name: value for name, value in record.items() if name not in VOLATILE}
