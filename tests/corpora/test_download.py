"""Downloads, from a server on this machine: whole and checked, or not there at all."""

import contextlib
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import trees

from capslib import corpora, paths
from capslib.corpora import download
from capslib.errors import CapslibError

FSDD, RAVDESS = (corpora.sources()[name].archive for name in ("fsdd", "ravdess"))
TOP, TARBALL, ZIP = FSDD.top, FSDD.file, RAVDESS.file


class Server(ThreadingHTTPServer):
    """Serves ``files`` by name and remembers what was asked for; a stalled one sends the first half, then nothing."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.stalled, self.go_on = {}, [], set(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        self.server.asked.append(name)
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if name in self.server.stalled:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.go_on.wait(20)
            return  # and the connection breaks off
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("CAPSLIB_MIRROR", running.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running
        running.go_on.set()
        running.shutdown()


def tarball(members):
    """Members are (name, content), or (name, how to change its header)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
            else:
                content(header)
                archive.addfile(header)
    return packed.getvalue()


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def change_archive(monkeypatch, name, **changes):
    """Let the archive of one corpus be known by another checksum or listing."""
    source = corpora.sources()[name]
    monkeypatch.setitem(corpora.sources(), name, replace(source, archive=replace(source.archive, **changes)))


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A tiny release of FSDD, as (path, bytes), and the listing by which it is checked."""
    folder = trees.fsdd(tmp_path / "owners", indices=(0, 1), speakers=("jackson", "theo"))
    members = [(file.relative_to(folder).as_posix(), file.read_bytes()) for file in sorted(folder.rglob("*.wav"))]
    lines = [f"{path},{hashlib.sha256(content).hexdigest()}" for path, content in members]
    listing = tmp_path / "fsdd.csv"
    listing.write_text("\n".join(["path,sha256", *lines]) + "\n")
    change_archive(monkeypatch, "fsdd", listing=listing)
    return members


def release(clips):
    return tarball([(f"{TOP}/README.md", b"# owners"), *((f"{TOP}/{path}", content) for path, content in clips)])


def nothing_but(data_folder, *names):
    """No trace of an unfinished download: neither in the data folder nor among the archives."""
    assert sorted(file.name for file in data_folder.iterdir()) == sorted(names)


# --- good ----------------------------------------------------------------------------------------------------------


def test_a_download_is_a_corpus_and_the_next_call_fetches_nothing(server, clips, data_folder, capfd):
    server.files[TARBALL] = release(clips)
    folder = download.fetch("fsdd", data_folder)
    assert folder == data_folder / "fsdd" and (folder / "README.md").is_file()
    assert len(corpora.load("fsdd").table) == 40
    assert download.fetch("fsdd", data_folder) == folder and download.fetch("fsdd6", data_folder) == folder
    assert server.asked == [TARBALL]
    nothing_but(data_folder, "archives", "fsdd")
    assert [file.name for file in (data_folder / "archives").iterdir()] == [TARBALL]
    assert capfd.readouterr() == ("", "")  # no terminal, no progress bar


def test_a_finished_archive_is_never_fetched_again(server, clips, data_folder):
    server.files[TARBALL] = release(clips)
    folder = download.fetch("fsdd", data_folder)
    folder.rename(data_folder / "elsewhere")
    download.fetch("fsdd", data_folder)
    assert len(corpora.load("fsdd").table) == 40 and server.asked == [TARBALL]


def test_an_archive_put_there_by_hand_needs_no_connection(clips, data_folder, monkeypatch):
    monkeypatch.setenv("CAPSLIB_MIRROR", "http://127.0.0.1:9")
    (data_folder / "archives").mkdir()
    (data_folder / "archives" / TARBALL).write_bytes(release(clips))
    download.fetch("fsdd", data_folder)
    assert len(corpora.load("fsdd").table) == 40


def test_own_clips_are_never_touched(server, data_folder):
    folder = trees.fsdd(data_folder / "fsdd", digits=(1, 2))
    assert download.fetch("fsdd", data_folder) == folder and server.asked == []
    nothing_but(data_folder, "fsdd")


def test_a_zip_checked_as_a_whole(server, data_folder, tmp_path, monkeypatch):
    owners = trees.ravdess(tmp_path / "owners", actors=range(1, 4))
    body = zipped([(f.relative_to(owners).as_posix(), f.read_bytes()) for f in sorted(owners.rglob("*.wav"))])
    server.files[ZIP] = body
    checksum = f"md5:{hashlib.md5(body).hexdigest()}"
    change_archive(monkeypatch, "ravdess", checksum=checksum)
    download.fetch("ravdess", data_folder, mirror=f"{server.url}/any/folder/")
    assert len(corpora.load("ravdess").table) == 18


def test_ravdess_comes_with_the_checksum_that_its_record_says(server, data_folder, tmp_path, monkeypatch):
    """The way over the DOI, with stand-ins for doi.org and Zenodo."""
    monkeypatch.delenv("CAPSLIB_MIRROR")
    owners = trees.ravdess(tmp_path / "owners", actors=range(1, 4))
    body = zipped([(f.relative_to(owners).as_posix(), f.read_bytes()) for f in sorted(owners.rglob("*.wav"))])
    server.files[ZIP] = body
    stated = {"checksum": f"md5:{hashlib.md5(body).hexdigest()}"}
    get = requests.get

    def answer(url, **how):
        response = requests.Response()
        response.status_code, response.url = 200, url
        if url == "https://doi.org/10.5281/zenodo.1188976":
            response.url = "https://zenodo.org/records/1188976"
        elif url == "https://zenodo.org/api/records/1188976":
            link = {"self": "https://zenodo.org/api/files/1188976/" + ZIP}
            response.json = lambda: {"id": 1188976, "files": [{"key": ZIP, "links": link, **stated}]}
        else:
            assert url.startswith("https://zenodo.org/")
            return get(f"{server.url}/{ZIP}", **how)
        return response

    monkeypatch.setattr(requests, "get", answer)
    download.fetch("ravdess", data_folder)
    assert len(corpora.load("ravdess").table) == 18

    stated["checksum"] = "md5:" + "0" * 32
    (data_folder / "other").mkdir()
    with pytest.raises(CapslibError, match=r"what Zenodo sends is not its owners' archive"):
        download.fetch("ravdess", data_folder / "other")
    assert list((data_folder / "other" / "archives").iterdir()) == []


# --- bad -----------------------------------------------------------------------------------------------------------


def change(clips, path, content):
    return [(old, content if old == path else kept) for old, kept in clips if not (old == path and content is None)]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            lambda clips: change(clips, "recordings/3_theo_1.wav", b"other"),
            "recordings/3_theo_1.wav in it is missing or not",
        ),
        (
            lambda clips: change(clips, "recordings/3_theo_1.wav", None),
            "recordings/3_theo_1.wav in it is missing or not",
        ),
        (lambda clips: [*clips, ("recordings/9_eve_0.wav", b"more")], "recordings/9_eve_0.wav in it is missing or not"),
        (lambda clips: [("else", b"")], "recordings/0_jackson_0.wav in it is missing or not"),
    ],
)
def test_a_file_that_is_not_the_owners_is_named_and_nothing_is_kept(server, clips, data_folder, changes, part):
    server.files[TARBALL] = release(changes(clips))
    with pytest.raises(
        CapslibError, match=rf"^fsdd: {re.escape(TARBALL)} is deleted, because {re.escape(part)}"
    ) as error:
        download.fetch("fsdd", data_folder)
    assert "\n" not in str(error.value) and str(data_folder) not in str(error.value)
    nothing_but(data_folder, "archives")
    assert list((data_folder / "archives").iterdir()) == []
    server.files[TARBALL] = release(clips)  # the owners mend it: the next call gets it
    assert download.fetch("fsdd", data_folder).is_dir()


def test_a_zip_with_another_checksum_is_not_kept(server, data_folder):
    server.files[ZIP] = zipped([("Actor_01/03-01-01-01-01-01-01.wav", b"-")])
    with pytest.raises(
        CapslibError, match=r"ravdess cannot be downloaded: what 127\.0\.0\.1:\d+ sends is not its owners'"
    ):
        download.fetch("ravdess", data_folder)
    assert list((data_folder / "archives").iterdir()) == []


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_archive_is_deleted(server, clips, data_folder, share):
    whole = release(clips)
    server.files[TARBALL] = whole[: int(share * len(whole))]
    with pytest.raises(
        CapslibError, match=f"{re.escape(TARBALL)} is deleted, because it is truncated or damaged"
    ) as error:
        download.fetch("fsdd", data_folder)
    assert "\n" not in str(error.value)
    nothing_but(data_folder, "archives")
    assert list((data_folder / "archives").iterdir()) == []


def test_a_page_of_a_hotel_instead_of_an_archive(server, clips, data_folder):
    server.files[TARBALL] = b"<html>Please log in</html>"
    with pytest.raises(CapslibError, match="truncated or damaged"):
        download.fetch("fsdd", data_folder)
    nothing_but(data_folder, "archives")


def link(kind, target="../../outside.wav"):
    def change(header):
        header.type, header.linkname = kind, target

    return change


def device(header):
    header.type, header.devmajor, header.devminor = tarfile.CHRTYPE, 1, 3


HOSTILE = {
    "up": ("../outside.wav", b"-"),
    "up from below": (f"{TOP}/recordings/../../../outside.wav", b"-"),
    "absolute": ("/tmp/outside.wav", b"-"),
    "other system": (f"{TOP}\\..\\..\\outside.wav", b"-"),
    "drive": ("C:outside.wav", b"-"),
    "symbolic link": (f"{TOP}/recordings/link", link(tarfile.SYMTYPE)),
    "symbolic link within": (f"{TOP}/recordings/link", link(tarfile.SYMTYPE, "0_theo_0.wav")),
    "hard link": (f"{TOP}/recordings/link", link(tarfile.LNKTYPE)),
    "device": (f"{TOP}/recordings/null", device),
    "pipe": (f"{TOP}/recordings/pipe", link(tarfile.FIFOTYPE)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused_as_a_whole(server, clips, data_folder, name):
    good = [(f"{TOP}/{path}", content) for path, content in clips]
    server.files[TARBALL] = tarball([*good, HOSTILE[name]])
    with pytest.raises(CapslibError, match=r"in it is a link or a device, or leads out of the folder"):
        download.fetch("fsdd", data_folder)
    nothing_but(data_folder, "archives")
    assert not list(data_folder.parent.rglob("outside.wav"))


@pytest.mark.parametrize(
    "name", ["../outside.wav", "/tmp/outside.wav", "a/../../outside.wav", "a\\..\\outside.wav", "link"]
)
def test_a_hostile_zip_is_refused_as_a_whole(server, data_folder, monkeypatch, name):
    hostile = zipfile.ZipInfo(name)
    hostile.create_system = 3
    hostile.external_attr = (0o120777 if name == "link" else 0o100644) << 16
    server.files[ZIP] = zipped([("Actor_01/03-01-01-01-01-01-01.wav", b"-"), (hostile, b"../outside.wav")])
    change_archive(monkeypatch, "ravdess", checksum=None)
    with pytest.raises(CapslibError, match=r"in it is a link or a device, or leads out of the folder"):
        download.fetch("ravdess", data_folder)
    nothing_but(data_folder, "archives")
    assert not list(data_folder.parent.rglob("outside.wav"))


# --- broken off ----------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_off_leaves_nothing(server, clips, data_folder):
    server.files[TARBALL] = release(clips)
    server.stalled.add(TARBALL)
    server.go_on.set()
    with pytest.raises(CapslibError, match=r"^fsdd cannot be downloaded: no connection to 127\.0\.0\.1:\d+; "):
        download.fetch("fsdd", data_folder)
    nothing_but(data_folder, "archives")
    assert list((data_folder / "archives").iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_killed_download_never_looks_finished(server, clips, data_folder):
    server.files[TARBALL] = release(clips)
    server.stalled.add(TARBALL)
    code = (
        "import sys, pathlib; from capslib.corpora import download; download.fetch('fsdd', pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(data_folder)], cwd=paths.root()) as process:
        deadline = time.monotonic() + 60
        while not (server.asked and any(data_folder.glob(".fsdd-*/*"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert list((data_folder / "archives").iterdir()) == [] and corpora.find("fsdd") is None
    server.stalled.clear()
    (left,) = data_folder.glob(".fsdd-*")
    os.utime(left, (1, 1))  # as if it were from long ago: the next call tidies up
    download.fetch("fsdd", data_folder)
    nothing_but(data_folder, "archives", "fsdd")
    assert len(corpora.load("fsdd").table) == 40


def test_unpacking_that_is_interrupted_never_looks_finished(server, clips, data_folder, monkeypatch):
    server.files[TARBALL] = release(clips)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download.fetch("fsdd", data_folder)
    nothing_but(data_folder, "archives")
    download.fetch("fsdd", data_folder)
    assert server.asked == [TARBALL] and len(corpora.load("fsdd").table) == 40


def test_a_data_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CapslibError, match=r"^fsdd cannot be put into the data folder: (Not a directory|File exists)"):
        download.fetch("fsdd", tmp_path / "file" / "data")


# --- no connection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "site"), [("fsdd", "GitHub"), ("ravdess", "Zenodo")])
def test_offline_is_one_line_that_says_how_to_do_it_by_hand(data_folder, monkeypatch, name, site):
    monkeypatch.delenv("CAPSLIB_MIRROR", raising=False)

    def no_route(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_route)
    with pytest.raises(CapslibError) as error:
        download.fetch(name, data_folder)
    message = str(error.value)
    assert message.startswith(f"{name} cannot be downloaded: no connection to {site}; ") and "\n" not in message
    archive = corpora.sources()[name].archive
    assert archive.url in message and archive.file in message and "archives/" in message
    assert str(data_folder) not in message
    nothing_but(data_folder, "archives")


def test_a_server_that_is_down(data_folder, clips, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CapslibError, match=f"no connection to 127.0.0.1:{port};"):
        download.fetch("fsdd", data_folder, mirror=f"http://127.0.0.1:{port}")


def test_a_server_without_the_archive(server, clips, data_folder):
    with pytest.raises(CapslibError, match=r"fsdd cannot be downloaded: 127\.0\.0\.1:\d+ answers 404 Not Found; "):
        download.fetch("fsdd", data_folder)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("emodb", "emodb cannot be downloaded: unpack the owners' download.zip"),
        ("synth_digits", "made on first use"),
        ("fssd", "did you mean 'fsdd'?"),
    ],
)
def test_what_cannot_be_downloaded_says_how_to_get_it(data_folder, name, part):
    with pytest.raises(CapslibError, match=re.escape(part)):
        download.fetch(name, data_folder)


# --- what is in git ------------------------------------------------------------------------------------------------


def test_the_listing_of_fsdd_has_the_owners_three_thousand_clips():
    lines = FSDD.listing.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,sha256" and len(lines) == 3_001
    names = {line.split(",")[0] for line in lines[1:]}
    speakers = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    assert names == {f"recordings/{d}_{s}_{n}.wav" for d in range(10) for s in speakers for n in range(50)}
    assert all(re.fullmatch(r"[0-9a-f]{64}", line.split(",")[1]) for line in lines[1:])


def test_real_recordings_of_fsdd_are_those_of_the_listing(ordinary_cache):
    folder = corpora.find("fsdd")
    if folder is None or len(list(folder.glob("recordings/*.wav"))) < 3_000:
        pytest.skip("no complete recordings of fsdd here, or in another container")
    download.verify(folder, FSDD.listing)
