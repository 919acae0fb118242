"""Corpora: ``load`` one by name, ask ``at_hand`` which are available. A new one is one new file in this folder."""

import functools
import importlib
import os
import pkgutil
from pathlib import Path

from capslib import paths
from capslib.corpora.folder import folder
from capslib.corpora.folder import source as folder_source
from capslib.corpora.table import Budget, Corpus, Source, assemble
from capslib.errors import CapslibError, choose


@functools.cache
def sources() -> dict[str, Source]:
    """Every corpus the project can read, by name: the ``SOURCES`` of each file in this folder."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {source.name: source for module in modules for source in getattr(module, "SOURCES", ())}


def parse(key: str) -> tuple[Source, str]:
    """("ased:gender" or "ased") to its source and task name; the first task is the default. Raises CapslibError for an
    unknown corpus or task, with the nearest, and for a "folder:NAME" that is not there."""
    name, _, task = key.partition(":")
    if name == "folder" and task:
        return folder_source(paths.data() / task, task), task
    if name == "folder":
        raise CapslibError("name your folder: 'folder:birds' for the folder birds/ in the data folder")
    source = sources()[choose(name, sources(), "corpus")]
    return source, choose(task, source.tasks, f"task of corpus {name!r}") if task else next(iter(source.tasks))


def is_embedded(key: str) -> bool:
    """Whether a corpus needs no recordings: it is synthesized, or mixed from corpora that are."""
    source, _ = parse(key)
    return source.make is not None and all(is_embedded(name) for name in source.made_from)


def find(key: str) -> Path | None:
    """The folder of a corpus if its recordings are on this machine; embedded corpora are always at hand. For a mixture,
    which ``load`` makes, it is the folder of its first source, if all of them are available. Raises CapslibError for an
    unknown name, or if an embedded corpus cannot be made."""
    source, _ = parse(key)
    if source.made_from:
        folders = [find(name) for name in source.made_from]
        return None if None in folders else folders[0]
    if source.make:
        return source.make()
    place = paths.data() / source.folder
    return place if place.is_dir() and any(place.rglob("*.*")) else None


@functools.lru_cache(maxsize=8)
def _load(key: str, place: Path) -> Corpus:
    source, task = parse(key)
    return assemble(source, task, place)


def load(key: str, task: str | None = None) -> Corpus:
    """A corpus by its key: "fsdd", or with the task "ased:speaker", which ``task`` can name instead. Raises
    CapslibError for an unknown name, with the nearest; when its recordings are not available, with how to get them; or
    when they cannot be used."""
    source, named = parse(f"{key}:{task}" if task else key)
    place = source.make() if source.make else find(key)
    if place is None:
        data = "$CAPSLIB_DATA" if os.environ.get("CAPSLIB_DATA") else "data/"
        raise CapslibError(
            f"corpus {source.name!r} is not available: there is no {source.folder}/ in the data folder ({data}); "
            f"{source.how_to_get}"
        )
    return _load(f"{source.name}:{named}", place.resolve())


def at_hand(real: bool = True, embedded: bool = True, multi_label: bool = False) -> list[str]:
    """Keys (default tasks) of the corpora that ``load`` would find on this machine, recordings after embedded ones.
    ``multi_label`` asks for mixtures, in place of the corpora whose clips have one class each."""
    keys = []
    for name, source in sources().items():
        task, about = next(iter(source.tasks.items()))
        synthetic = is_embedded(name)
        wanted = about.alone and about.multi_label == multi_label and (embedded if synthetic else real)
        if wanted and (synthetic or find(name)):
            keys.append((not synthetic, f"{name}:{task}"))
    return [key for _, key in sorted(keys)]
