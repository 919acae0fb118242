"""Corpora: what there is to hear. ``load`` one by name, ask ``at_hand`` what is on this machine."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from pathlib import Path

from capslib import paths
from capslib.corpora.splits import Split
from capslib.corpora.table import Corpus, Source, Task, assemble
from capslib.errors import CapslibError, choose

__all__ = ["Corpus", "Source", "Split", "Task", "at_hand", "find", "is_embedded", "load", "sources"]


@functools.cache
def sources() -> dict[str, Source]:
    """Every corpus the project can read, by name: the ``SOURCES`` of each file in this folder."""
    found: dict[str, Source] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        for source in getattr(importlib.import_module(f"{__name__}.{module.name}"), "SOURCES", ()):
            found[source.name] = source
    return found


def parse(key: str) -> tuple[Source, str]:
    """("ased:gender" or "ased") to its source and task name; the first task is the default."""
    name, _, task = key.partition(":")
    if name == "folder" and task:
        from capslib.corpora.own import source as own

        return own(paths.data() / task, task), task
    if name == "folder":
        raise CapslibError("name your folder: 'folder:birds' for the folder birds/ in the data folder")
    source = sources()[choose(name, sources(), "corpus")]
    return source, choose(task, source.tasks, f"task of corpus {name!r}") if task else next(iter(source.tasks))


def is_embedded(key: str) -> bool:
    """Whether a corpus needs no recordings: it is synthesized, or mixed from corpora that are."""
    source, _ = parse(key)
    return source.make is not None and all(is_embedded(name) for name in source.made_from)


def find(key: str) -> Path | None:
    """The folder of a corpus if its recordings are on this machine; embedded corpora are always at hand.

    For a mixture, which ``load`` makes, it is the folder of its first source, if all of them are here.
    """
    source, _ = parse(key)
    if source.made_from:
        folders = [find(name) for name in source.made_from]
        return None if None in folders else folders[0]
    if source.make:
        return source.make()
    folder = paths.data() / source.folder
    return folder if folder.is_dir() and any(folder.rglob("*.*")) else None


@functools.lru_cache(maxsize=8)
def _load(key: str, folder: Path) -> Corpus:
    source, task = parse(key)
    return assemble(source, task, folder)


def load(key: str, task: str | None = None) -> Corpus:
    """Load a corpus.

    Args:
        key: "fsdd", or with the task "ased:speaker".
        task: another way to name the task.
    Raises:
        CapslibError: for an unknown name (with the nearest), or when its recordings are not here (with how to get them).
    """
    source, named = parse(f"{key}:{task}" if task else key)
    folder = source.make() if source.make else find(key)
    if folder is None:
        raise CapslibError(
            f"corpus {source.name!r} is not here: there is no {source.folder}/ in the data folder "
            f"({'$CAPSLIB_DATA' if os.environ.get('CAPSLIB_DATA') else 'data/'}); "
            f"{source.how_to_get}"
        )
    return _load(f"{source.name}:{named}", folder.resolve())


def at_hand(real: bool = True, embedded: bool = True, multi_label: bool = False) -> list[str]:
    """Keys (default tasks) of the corpora that ``load`` would find on this machine, recordings after embedded ones.

    Args:
        real: with recordings.
        embedded: with those that need none.
        multi_label: mixtures, in place of the corpora whose clips have one class each.
    """
    keys = []
    for name, source in sources().items():
        task, about = next(iter(source.tasks.items()))
        made_here = is_embedded(name)
        wanted = about.alone and about.multi_label == multi_label and (embedded if made_here else real)
        if wanted and (made_here or find(name)):
            keys.append((not made_here, f"{name}:{task}"))
    return [key for _, key in sorted(keys)]


def folder(path: str | Path, **options: object) -> Corpus:
    """Anybody's own recordings, wherever they lie: see ``capslib.corpora.own.source`` for the two layouts.

    Raises:
        CapslibError: if ``path`` is not there, or holds nothing that can be classified.
    """
    from capslib.corpora.own import source as own

    made = own(Path(path), Path(path).stem, **options)
    return assemble(made, Path(path).stem, Path(path) if Path(path).is_dir() else Path(path).parent)
