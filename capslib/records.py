"""Records: one file a run, written whole or not at all, found again by what decided the run."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from capslib import paths
from capslib.errors import CapslibError

SCHEMA = 1
# What may differ between two records of the same run on the same machine.
VOLATILE = ("provenance",)
# Fingerprints of the data stand for the corpora; kernels and native passes give the numbers of `layers.passes` up to rounding,
# on devices that the provenance names; the others cannot change a number.
_NOT_CODE = (
    "capslib.corpora",
    "capslib.errors",
    "capslib.paths",
    "capslib.records",
    "capslib.layers.kernels",
    "capslib.layers.native",
)


@functools.cache
def _file(module: str) -> Path | None:
    found = importlib.util.find_spec(module)
    return Path(found.origin) if found and found.origin else None


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _imports(module: str) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import of ours: ``from capslib.layers import BiLSTM`` and ``from capslib import paths``."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "capslib":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "capslib")


def _defining(module: str, name: str | None) -> str:
    """The module in which ``name`` is defined: a submodule, another one that a package re-exports from, or itself."""
    if name and _is_module(f"{module}.{name}"):
        return f"{module}.{name}"
    if name and _file(module).name == "__init__.py":
        for source, exported in _imports(module):
            if exported == name and source != module:
                return _defining(source, name)
    return module


def _is_module(module: str) -> bool:
    try:
        return _file(module) is not None
    except ModuleNotFoundError:
        return False


def modules_that_matter(*roots: str) -> list[str]:
    """The given modules and all of ours that they use, by name; a package that only re-exports is looked through."""
    found, queue = set(), list(roots)
    while queue:
        module = queue.pop()
        if module in found or module == "capslib" or module.startswith(_NOT_CODE):
            continue
        found.add(module)
        queue.extend(_defining(source, name) for source, name in _imports(module))
    return sorted(found)


def _canonical(node: object) -> str:
    """A syntax tree as text that neither layout, comments nor docstrings change, nor the version of Python."""
    if isinstance(node, list):
        return "[" + ",".join(map(_canonical, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and value and _is_docstring(node, value[0]):
            value = value[1:]
        if name not in ("ctx", "kind", "type_comment", "type_ignores", "type_params") and value not in (None, []):
            parts.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _is_docstring(owner: ast.AST, first: ast.AST) -> bool:
    documented = isinstance(owner, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    constant = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return documented and constant and isinstance(first.value.value, str)


@functools.cache
def code_version(*roots: str) -> str:
    """SHA-256 (16 digits) of the modules that matter."""
    text = "\n".join(f"{module}\n{_canonical(_tree(module))}" for module in modules_that_matter(*roots))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_version(*parts: Callable | ModuleType) -> str:
    """SHA-256 (16 digits) of the code of functions or modules."""
    trees = [ast.parse(textwrap.dedent(inspect.getsource(part))) for part in parts]
    return hashlib.sha256("\n".join(map(_canonical, trees)).encode()).hexdigest()[:16]


def run_key(config: dict, data_fingerprint: str, code: str) -> str:
    """Under which a run is found: SHA-256 (16 digits) of configuration (with fold and seed), data and code."""
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
        self._found: dict[str, dict] = {}
        for folder in self.folders:
            for path in sorted(folder.glob("[!.]*.json")):  # hidden ones were being written when a process was killed
                try:
                    record = read(path)
                except CapslibError as error:
                    self.unreadable.append(str(error))
                    continue
                self._found.setdefault(record["key"], record)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> dict | None:
        """The record of a run, or None."""
        return self._found.get(key)

    def older(self, config: dict) -> dict | None:
        """A record of the same configuration, made by other code or from other data; the latest, if there are several."""
        text = json.dumps(config, sort_keys=True)
        same = [r for r in self._found.values() if json.dumps(r["config"], sort_keys=True) == text]
        return max(same, key=lambda r: r["provenance"]["date"], default=None)

    def put(self, record: dict) -> Path:
        """Write a record to the last folder, atomically."""
        path = self.folders[-1] / file_name(record["config"], record["key"])
        paths.write_text(path, json.dumps(record, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
        self._found[record["key"]] = record
        return path


def comparable(record: dict) -> dict:
    """What must be equal when the same run is made twice on one machine."""
    return {name: value for name, value in record.items() if name not in VOLATILE}
