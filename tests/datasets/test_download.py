"""Downloads against a local server that can falter: what arrives is whole, verified and safe, or nothing is there."""

import errno
import fcntl
import gzip
import hashlib
import http.server
import io
import multiprocessing
import os
import socket
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from common import datasets
from common.datasets import SPECS, download
from common.datasets.download import File, fetch
from common.errors import UserError
from tests.conftest import needs_tar_filter
from tests.helpers.datasets_on_disk import WRITERS, accept_checksums

pytestmark = needs_tar_filter

TEXT = os.urandom(3_000_000)  # does not shrink when packed


class Server(http.server.ThreadingHTTPServer):
    """Serves `contents`.

    Attributes:
        contents: name -> bytes.
        faults: how to spoil the next answers: a status, or the number of bytes after which to hang up.
        ranges: whether it can resume.
        ignores_start: whether it answers a request for the rest with "206 Partial Content" and the whole file.
        requests: (name, Range header) of every request so far.
        delay: seconds before each answer.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents, self.faults, self.ranges, self.requests, self.delay = {}, [], True, [], 0.0
        self.ignores_start = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def serve(self, name: str, content: bytes, **options) -> File:
        """Serve `content`, and describe it."""
        self.contents[name] = content
        return File(f"{self.url}/{name}", f"md5:{hashlib.md5(content).hexdigest()}", **options)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        name, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.requests.append((name, asked))
        time.sleep(self.server.delay)
        fault = self.server.faults.pop(0) if self.server.faults else None
        content = self.server.contents.get(name)
        if content is None or fault in (403, 503):
            return self.send_error(fault or 404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            start = 0 if self.server.ignores_start else start
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if fault is None else content[start : start + fault])
        if fault is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def tar(members: dict[str, bytes] | list[tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    """An archive of files (name -> content), or of bare members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            content = members[member] if isinstance(members, dict) else b"x" if info.isreg() else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def tree(root: Path) -> dict[str, bytes]:
    """All files below `root`, but for the lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def packed(server):
    """An archive on the server: one folder with one large file and one small one."""
    return server.serve("set.tar.gz", tar({"set/large": TEXT, "set/small": b"small"}))


WHOLE = {"set/large": TEXT, "set/small": b"small"}


# Success


def test_unpacks_and_leaves_nothing_else(server, packed, tmp_path):
    root = tmp_path / "new" / "root"
    fetch("Set", root, [packed], ["set"])
    assert tree(root) == WHOLE
    assert {path.name for path in root.iterdir()} == {"set", ".Set.lock"}
    fetch("Set", root, [packed], ["set"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_reported_and_used(server, packed, tmp_path, monkeypatch, log, number):
    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    assert f"the disk of '{tmp_path}' knows no locks ({os.strerror(number)}): see to it" in log.text


def test_formats_and_folders(server, tmp_path):
    inner = zipped({"zip/inner.tar.gz": tar({"in/a": b"a"}), "zip/more": b"more"})
    files = [
        server.serve("one.tgz", tar({"b": b"b"}), folder="x"),
        server.serve("two.zip", inner, folder="y", inner="zip/inner.tar.gz"),
        server.serve("c.gz", gzip.compress(b"c"), folder="x/raw"),
        server.serve("d.mat", b"d", folder="x"),
    ]
    fetch("Set", tmp_path, files, ["x/b", "y/in", "x/raw", "x/d.mat"])
    assert tree(tmp_path) == {"x/b": b"b", "y/in/a": b"a", "x/raw/c": b"c", "x/d.mat": b"d"}


def test_a_python_that_cannot_unpack_safely_is_refused_before_the_download(server, packed, tmp_path, monkeypatch):
    """3.11.0 to 3.11.3 have no filters for archives."""
    monkeypatch.delattr(download.tarfile, "data_filter")
    with pytest.raises(UserError, match=r"use Python 3\.11\.4 or later for downloads$"):
        download.fetch("Some", tmp_path / "root", [], ["missing"])
    assert not (tmp_path / "root").exists()


def test_what_is_there_is_not_touched(server, packed, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("mine")
    other = server.serve("other.gz", gzip.compress(b"other"))
    fetch("Set", tmp_path, [packed, other], ["set", "other"])
    assert tree(tmp_path) == {"set/mine": b"mine", "other": b"other"}


def test_a_file_put_there_by_hand_is_used(server, packed, tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(server.contents["set.tar.gz"])
    fetch("Set", tmp_path, [packed], ["set"])
    assert server.requests == []
    assert (tmp_path / "set.tar.gz").is_file()


def test_a_wrong_file_put_there_by_hand_is_passed_over(server, packed, tmp_path, log):
    (tmp_path / "set.tar.gz").write_bytes(b"half")
    fetch("Set", tmp_path, [packed], ["set"])
    assert f"'{tmp_path / 'set.tar.gz'}' is not used" in log.text
    assert len(server.requests) == 1
    assert (tmp_path / "set.tar.gz").read_bytes() == b"half"


def test_a_damaged_file_in_the_datasets_own_place_is_refused_before_the_download(server, tmp_path):
    """It would stay, as all that is there, and the download would be lost."""
    files = [server.serve(name, name.encode()) for name in ("train.mat", "test.mat")]
    (tmp_path / "train.mat").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"train.mat' is damaged \(checksum md5:.*\): remove it, and run again"):
        fetch("Set", tmp_path, files, ["train.mat", "test.mat"])
    assert not server.requests
    (tmp_path / "train.mat").unlink()
    fetch("Set", tmp_path, files, ["train.mat", "test.mat"])
    assert tree(tmp_path) == {"train.mat": b"train.mat", "test.mat": b"test.mat"}


def test_checksum_of_what_a_gz_holds(server, tmp_path):
    plain = tar(WHOLE, "w")
    file = server.serve("set.tar.gz", gzip.compress(plain))
    file = replace(file, checksum=f"gunzip+sha256:{hashlib.sha256(plain).hexdigest()}")
    fetch("Set", tmp_path, [file], ["set"])
    assert tree(tmp_path) == WHOLE
    server.contents["set.tar.gz"] = server.contents["set.tar.gz"][:-9]
    with pytest.raises(UserError, match="gunzip\\+sha256:damaged"):
        fetch("Set", tmp_path / "again", [file], ["set"])


# A wrong file


def test_a_wrong_checksum_leaves_nothing(server, packed, tmp_path):
    server.contents["set.tar.gz"] = wrong = tar({"set/other": b"?"})
    with pytest.raises(UserError) as error:
        fetch("Set", tmp_path, [packed], ["set"])
    message = str(error.value)
    assert packed.checksum in message
    assert hashlib.md5(wrong).hexdigest() in message
    assert "\n" not in message
    assert tree(tmp_path) == {}


def test_an_archive_without_the_dataset_leaves_nothing(server, tmp_path):
    file = server.serve("set.tar.gz", tar({"other": b"?"}))
    with pytest.raises(UserError, match="do not hold 'set'"):
        fetch("Set", tmp_path, [file], ["set"])
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "other").exists()


# Interruptions


def test_resumes_a_broken_connection(server, packed, tmp_path):
    server.faults = [1_000_000, 500_000, None]
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    starts = [0 if asked is None else int(asked[6:-1]) for _, asked in server.requests]
    assert starts[0] == 0 < starts[1] <= 1_000_000 < starts[2] <= 1_500_000


def test_a_connection_that_breaks_often_but_gets_on_is_not_given_up(server, packed, tmp_path):
    server.faults = [300_000] * (download.ATTEMPTS + 1)
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE


def test_starts_anew_where_the_server_cannot_resume(server, packed, tmp_path):
    server.ranges = False
    server.faults = [1_000_000, 2_000_000]
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    assert len(server.requests) == 3


def test_the_range_that_comes_counts_and_not_the_one_asked_for(server, packed, tmp_path):
    server.ignores_start = True
    server.faults = [1_000_000]
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    assert len(server.requests) == 2  # appended to the first part, it would have to be downloaded a third time


def test_resumes_what_an_earlier_job_left(server, packed, tmp_path):
    part = tmp_path / ".Set.download" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(server.contents["set.tar.gz"][:12345])
    fetch("Set", tmp_path, [packed], ["set"])
    assert server.requests == [("set.tar.gz", "bytes=12345-")]
    assert tree(tmp_path) == WHOLE


def test_a_part_that_lacks_nothing_is_enough(server, packed, tmp_path):
    part = tmp_path / ".Set.download" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(server.contents["set.tar.gz"])
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [12345, 9_000_000])
def test_a_part_of_another_file_is_thrown_away(size, server, packed, tmp_path):
    part = tmp_path / ".Set.download" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(bytes(size))
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    assert len(server.requests) == 2


def test_a_faltering_server_is_asked_again(server, packed, tmp_path):
    server.faults = [503, 503]
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE


@pytest.mark.parametrize("fault", [503, 0])
def test_a_dead_server_is_given_up(fault, server, packed, tmp_path):
    server.faults = [fault] * 99
    with pytest.raises(UserError, match="put it into") as error:
        fetch("Set", tmp_path, [packed], ["set"])
    assert packed.url in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.requests) == download.ATTEMPTS


@pytest.mark.parametrize("fault", [403, None])
def test_a_refusal_is_final(fault, server, packed, tmp_path):
    server.faults = [fault]
    if fault is None:
        del server.contents["set.tar.gz"]
    with pytest.raises(UserError, match="put it into"):
        fetch("Set", tmp_path, [packed], ["set"])
    assert len(server.requests) == 1


def test_no_server_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.01)
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch("Set", tmp_path, [File("http://127.0.0.1:9/set.tar.gz", "md5:0")], ["set"])


def test_stopped_while_unpacking(server, packed, tmp_path, monkeypatch):
    """Nothing half-unpacked is taken for whole; the verified archive is not downloaded again."""
    with monkeypatch.context() as patch:
        extract = tarfile.TarFile.extract

        def stop_at_second(self, member, *args, **options):
            if member.name == "set/small":
                raise KeyboardInterrupt
            return extract(self, member, *args, **options)

        patch.setattr(tarfile.TarFile, "extract", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            fetch("Set", tmp_path, [packed], ["set"])
    assert (tmp_path / ".Set.download/unpacked/set/large").exists()
    assert not (tmp_path / "set").exists()
    (tmp_path / ".Set.download/unpacked/set/junk").touch()
    fetch("Set", tmp_path, [packed], ["set"])
    assert tree(tmp_path) == WHOLE
    assert len(server.requests) == 1


def test_an_unwritable_root_is_named(server, packed, tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(UserError, match="cannot download Set") as error:
        fetch("Set", tmp_path / "root", [packed], ["set"])
    assert str(tmp_path / "root") in str(error.value)


# Several jobs


def test_jobs_that_start_together_download_once(server, packed, tmp_path):
    server.delay = 0.3
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=fetch, args=("Set", tmp_path, [packed], ["set"])) for _ in range(3)]
    jobs += [threading.Thread(target=fetch, args=("Set", tmp_path, [packed], ["set"])) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs[:3]] == [0, 0, 0]
    assert len(server.requests) == 1
    assert tree(tmp_path) == WHOLE


# The datasets themselves

# archive -> (folder below the root where it is unpacked, what it holds)
ARCHIVES = {
    "food-101.tar.gz": (".", "food-101"),
    "cifar-10-python.tar.gz": (".", "cifar-10-batches-py"),
    "cifar-100-python.tar.gz": (".", "cifar-100-python"),
    "CUB_200_2011.tgz": (".", "CUB_200_2011"),
    "fgvc-aircraft-2013b.tar.gz": (".", "fgvc-aircraft-2013b"),
    "dtd-r1.0.1.tar.gz": ("dtd", "dtd"),
    "images.tar.gz": ("oxford-iiit-pet", "images"),
    "annotations.tar.gz": ("oxford-iiit-pet", "annotations"),
    "102flowers.tgz": ("flowers-102", "jpg"),
    "caltech-101.zip": ("caltech101", "101_ObjectCategories"),
    "stl10_binary.tar.gz": (".", "stl10_binary"),
}


def pack(root: Path, file: File) -> bytes:
    """The content of `file`, as its original host has it, made of the files under `root`."""
    if file.name not in ARCHIVES:
        content = (root / file.folder / file.name.removesuffix(".gz")).read_bytes()
        return gzip.compress(content) if file.name.endswith(".gz") else content
    folder, held = ARCHIVES[file.name]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root / folder / held, held)
    return zipped({file.inner: buffer.getvalue()}) if file.inner else buffer.getvalue()


@pytest.mark.parametrize("name", [name for name in WRITERS if SPECS[name].files])
def test_every_dataset_with_a_host_is_downloaded_whole(name, server, tmp_path, monkeypatch):
    origin, root = tmp_path / "origin", tmp_path / "root"
    WRITERS[name](origin)
    accept_checksums(monkeypatch, name, origin)
    spec = SPECS[name]
    files = [server.serve(f.name, pack(origin, f), folder=f.folder, inner=f.inner) for f in spec.files]
    monkeypatch.setitem(SPECS, name, replace(spec, files=tuple(files)))
    data = datasets.load(name, root, any_counts=True)
    assert tree(root) == tree(origin)
    assert data.counts == datasets.load(name, origin, any_counts=True).counts
    assert len(server.requests) == len(files)


def test_every_file_has_a_checksum():
    for spec in SPECS.values():
        for file in spec.files:
            kind, _, digest = file.checksum.partition(":")
            assert len(bytes.fromhex(digest)) == {"md5": 16, "gunzip+sha256": 32}[kind]
