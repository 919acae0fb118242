"""Archives that their owners let anyone download: fetched once, checked, unpacked; half of one is never taken for it.

What is not yet whole and checked lies in a hidden folder of the data folder that nothing reads.
"""

import gzip
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from capslib import corpora
from capslib.corpora.layout import SUFFIXES
from capslib.corpora.table import Archive
from capslib.errors import CapslibError, choose

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError, ValueError)


def fetch(name: str, into: Path, mirror: str | None = None) -> Path:
    """The folder with the clips of a corpus, downloaded into the data folder ``into`` unless it is there already. The
    archive itself stays in ``archives/`` there. ``mirror`` is the address of a folder with copies of the archives, by
    default ``$CAPSLIB_MIRROR``, or the owners' sites. Raises CapslibError for a corpus without an address, without a
    connection, if a file is not the owners', or if the disk is full or read-only."""
    source = corpora.sources()[choose(name, corpora.sources(), "corpus")]
    archive, target = source.archive, into / source.folder
    if archive is None:
        raise CapslibError(f"{name} cannot be downloaded: {source.how_to_get}")
    if _clips(target):
        return target
    file = into / "archives" / archive.file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for killed in [old for old in into.glob(f".{source.folder}-*") if time.time() - old.stat().st_mtime > 86_400]:
            shutil.rmtree(killed, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=f".{source.folder}-") as scratch:
            unpacked = Path(scratch) / "unpacked"
            if not file.is_file():
                os.replace(_download(name, archive, Path(scratch), mirror or os.environ.get("CAPSLIB_MIRROR")), file)
            try:
                _unpack(file, unpacked)
                if archive.listing:
                    verify(unpacked / archive.top, archive.listing)
            except _DAMAGED as error:
                file.unlink()
                reason = error if isinstance(error, CapslibError) else "it is truncated or damaged"
                raise CapslibError(f"{name}: {archive.file} is deleted, because {reason}; run this again") from None
            os.replace(unpacked / archive.top, target)
    except OSError as error:
        raise CapslibError(f"{name} cannot be put into the data folder: {error.strerror or error}") from error
    return target


def _clips(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES}


def _download(name: str, archive: Archive, folder: Path, mirror: str | None) -> str:
    """Path of the archive in ``folder``: pooch moves it there when all of it has come and its checksum is right."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # its messages name folders of this machine
    site = urlsplit(mirror).netloc if mirror else archive.site
    how = {"progressbar": sys.stderr.isatty(), "chunk_size": 1 << 16, "timeout": 30}
    try:
        if archive.doi and not mirror:
            record = pooch.create(folder, base_url=f"doi:{archive.doi}/")
            record.load_registry_from_doi()
            return record.fetch(archive.file, downloader=pooch.DOIDownloader(**how))
        url = f"{mirror.rstrip('/')}/{archive.file}" if mirror else archive.url
        return pooch.retrieve(url, archive.checksum, archive.file, folder, downloader=pooch.HTTPDownloader(**how))
    except requests.HTTPError as error:
        reason = f"{site} answers {error.response.status_code} {error.response.reason}"
    except requests.RequestException:
        reason = f"no connection to {site}"
    except (ValueError, KeyError) as error:
        reason = f"what {site} sends is not its owners' archive ({' '.join(str(error).split())[:160]})"
    raise CapslibError(
        f"{name} cannot be downloaded: {reason}; try later, or get {archive.url} by hand, put it into archives/ of the "
        f"data folder as {archive.file}, and run this again"
    )


def _unpack(file: Path, into: Path) -> None:
    """All of an archive; nothing of it if one member is a link or a device or would lie elsewhere."""
    with zipfile.ZipFile(file) if zipfile.is_zipfile(file) else tarfile.open(file) as archive:
        if isinstance(archive, zipfile.ZipFile):
            kinds = [(m.filename, stat.S_IFMT(m.external_attr >> 16)) for m in archive.infolist()]
            members = [(name, kind in (0, stat.S_IFREG, stat.S_IFDIR)) for name, kind in kinds]  # 0 if not from Unix
        else:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 brought it
            members = [(m.name, m.isreg() or m.isdir()) for m in archive.getmembers()]
        for name, ordinary in members:
            if not ordinary or name.startswith("/") or ".." in PurePosixPath(name).parts or set(name) & set("\\:"):
                raise CapslibError(f"{name!r} in it is a link or a device, or leads out of the folder")
        archive.extractall(into)


def verify(folder: Path, listing: Path) -> None:
    """Check that every clip in ``folder`` is its owners', to the last bit, and that there are no others. Raises
    CapslibError naming the first file that is missing, different or not listed."""
    listed = dict(line.split(",") for line in listing.read_text(encoding="utf-8").splitlines()[1:])
    for path in sorted(listed.keys() | _clips(folder)):
        digest = hashlib.sha256((folder / path).read_bytes()).hexdigest() if (folder / path).is_file() else "missing"
        if digest != listed.get(path):
            raise CapslibError(f"{path} in it is missing or not the owners' file: see {listing.name}")
