"""Where things are: the project's root, the recordings, the caches; and how a file is written whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from capslib.errors import CapslibError


def root() -> Path:
    """The checkout that this package lies in, or the current folder when it was installed elsewhere."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data() -> Path:
    """Where recordings are looked for: ``$CAPSLIB_DATA``, by default ``data/`` of the checkout.

    Raises:
        CapslibError: if ``$CAPSLIB_DATA`` names a folder that is not there.
    """
    named = os.environ.get("CAPSLIB_DATA")
    if not named:
        return root() / "data"
    # A relative path means the same in a notebook, whose folder is notebooks/, as in a shell in the checkout.
    for base in (Path.cwd(), root()):
        folder = (base / Path(named).expanduser()).resolve()
        if folder.is_dir():
            return folder
    raise CapslibError(f"CAPSLIB_DATA names {named!r}, which is not a folder: correct it, or unset it")


def cache() -> Path:
    """Decoded audio, features and synthetic speech: ``$CAPSLIB_CACHE``, by default ``data/cache`` of the checkout.

    Everything in it can be deleted at any time; it is made again when needed.
    """
    named = os.environ.get("CAPSLIB_CACHE")
    return Path(named).expanduser().resolve() if named else root() / "data" / "cache"


def shown(path: Path | str) -> str:
    """A path as it may be printed: relative to the checkout or to the recordings, never a path of one machine."""
    path = Path(path)
    for base in (data, root):
        try:
            return path.resolve().relative_to(base().resolve()).as_posix()
        except ValueError:  # it lies elsewhere, or CAPSLIB_DATA is wrong, which is another error's business
            continue
    return path.name


def write_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then move it there: readers see all of it or nothing.

    Raises:
        CapslibError: if the disk is full or read-only; what was there before is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:  # safetensors and others have errors of their own for a full disk
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CapslibError(
            f"cannot write {shown(path)}: {reason}; free some space, or point CAPSLIB_CACHE or the reports elsewhere"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8 to ``path``, atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
