"""capslib: capsule layers for audio, corpora to try them on, and the study that asks whether the papers' claims hold.

The rooms load when they are first named: ``import capslib; capslib.corpora.load("fsdd").summary()``.
"""

import importlib
import pkgutil
from types import ModuleType

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if not name.startswith("_") and name in __dir__():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} | {"__version__"})
