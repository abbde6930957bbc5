"""Downloads that are complete or absent: fetched, verified and unpacked in a folder of their own, then renamed.

All of it happens in `ROOT/.NAME.download`, under the lock `ROOT/.NAME.lock`: jobs that start together download once. A
broken download resumes where it stopped, in this run or in the next one. For machines without a network, a file that
lies in ROOT under its own name is used instead.
"""

import contextlib
import fcntl
import gzip
import hashlib
import logging
import os
import shutil
import ssl
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from common.errors import UserError, reason
from common.system.files import NO_LOCKS

logger = logging.getLogger(__name__)

ATTEMPTS = 5  # in a row without a single byte, then we give up
WAIT = 1.0  # seconds after the first failure; doubled after each
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 20  # bytes

# What a broken connection can raise. Errors of the disk are not among them.
BROKEN_CONNECTION = (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class File:
    """A file of a dataset on its original host.

    Attributes:
        url: where it is.
        checksum: `md5:<hex>` or `sha256:<hex>` of the file; `gunzip+sha256:<hex>` of its unzipped content.
        folder: path below the root to which it is unpacked (.tar.gz, .tgz, .zip, .gz) or copied (everything else).
        inner: path below `folder` of an archive within this archive, which is unpacked there as well.
    """

    url: str
    checksum: str
    folder: str = "."
    inner: str | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(name: str, root: Path, files: Sequence[File], paths: Sequence[str]) -> None:
    """Download a dataset unless all its `paths` exist. What exists is never changed.

    Args:
        name: the dataset's name.
        root: the folder that holds the datasets; made if it does not exist.
        files: what to download.
        paths: paths below the root that the unpacked files must contain. Only these are kept.

    Raises:
        UserError: a file cannot be downloaded, or has a wrong checksum; the root is not writable, or the disk is full;
            or Python is older than 3.11.4.
    """
    if is_present(root, paths):
        return
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot unpack archives safely: use Python 3.11.4 or later for downloads")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f".{name}.lock", name):
            if is_present(root, paths):  # another job was faster
                return
            staging = root / f".{name}.download"
            unpacked = staging / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)  # an earlier job may have been interrupted
            unpacked.mkdir(parents=True)
            for file in files:
                _unpack_file(file, _obtain(file, root, staging, paths), unpacked)
            _move(unpacked, root, paths, name)
            shutil.rmtree(staging)
            logger.info(f"{name} is complete under '{root}'")
    except OSError as error:
        raise UserError(
            f"cannot download {name} to '{root}' ({reason(error)}): make room, or name another root"
        ) from None


def is_present(root: Path, paths: Sequence[str]) -> bool:
    """Whether all `paths` exist below the root."""
    return all(os.path.exists(root / path) for path in paths)


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info(f"another job is downloading {name}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(
                f"the disk of '{path.parent}' knows no locks ({error.strerror}): see to it yourself that no "
                f"other job downloads {name} there"
            )
        yield


def _move(unpacked: Path, root: Path, paths: Sequence[str], name: str) -> None:
    absent = [path for path in paths if not (unpacked / path).exists()]
    if absent:
        raise UserError(f"the archives of {name} do not hold '{absent[0]}': its host has changed them, report this")
    for path in paths:
        target = root / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unpacked / path, target)  # atomic, even if the machine stops here


# One file


def _obtain(file: File, root: Path, staging: Path, paths: Sequence[str]) -> Path:
    """The path of the verified file: the one that somebody put into the root, or a downloaded one.

    Raises:
        UserError: a file in the dataset's own place, one of `paths`, is damaged (it would stay, and the download be
            lost); or what comes from the host is not the file.
    """
    by_hand, target, part = root / file.name, staging / file.name, staging / f"{file.name}.part"
    if by_hand.is_file():
        found = checksum(by_hand, file.checksum)
        if found == file.checksum:
            return by_hand
        if file.name in paths:
            raise UserError(
                f"'{by_hand}' is damaged (checksum {found}, expected {file.checksum}): remove it, and run again"
            )
        logger.warning(f"'{by_hand}' is not used: its checksum is {found}, not {file.checksum}")
    if target.is_file():  # it was verified before it got this name
        return target
    pieced = part.exists()
    logger.info(f"downloading {file.url}")
    _download(file.url, part, root)
    found = checksum(part, file.checksum)
    if found != file.checksum and pieced:
        logger.warning(f"{file.name}, resumed, has a wrong checksum: downloading it from the start")
        part.unlink()
        _download(file.url, part, root)
        found = checksum(part, file.checksum)
    if found != file.checksum:
        part.unlink()
        raise UserError(
            f"{file.url} is not what it should be (checksum {found}, expected {file.checksum}): run again, or, if its "
            f"host has replaced it and you trust it, unpack it to '{root / file.folder}' yourself"
        )
    part.rename(target)
    return target


def checksum(path: Path, like: str) -> str:
    """The checksum of a file in the notation of `like` (see `File`). For a damaged .gz it is `damaged`."""
    kind = like.partition(":")[0]
    unzip, _, algorithm = kind.rpartition("+")
    try:
        with gzip.open(path) if unzip else open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    except BROKEN_ARCHIVE:
        return f"{kind}:damaged"
    return f"{kind}:{digest.hexdigest()}"


def _download(url: str, part: Path, root: Path) -> None:
    """Download to `part`, continuing after the bytes that it holds. Retries when the connection breaks."""
    failures = 0
    problem: Exception
    while True:
        before = _size(part)
        try:
            return _receive(url, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # `part` is not the beginning of this file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise UserError(_cannot(url, error, root)) from None
            problem = error
        except BROKEN_CONNECTION as error:
            problem = error
        failures = 0 if _size(part) > before else failures + 1
        if failures == ATTEMPTS:
            raise UserError(_cannot(url, problem, root)) from None
        logger.warning(f"{url} broke off after {_size(part):,} bytes ({reason(problem)}): trying again")
        time.sleep(WAIT * 2 ** max(failures - 1, 0))


def _receive(url: str, part: Path) -> None:
    """Make one request. Appends if the server can resume, starts anew if it cannot.

    Raises:
        BROKEN_CONNECTION: the connection broke, or ended before the last byte.
    """
    have = _size(part)
    headers = {"User-Agent": "Mozilla/5.0", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the hosts are those of the datasets' files)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()  # the error is also the response
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # nothing was missing
        raise
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        _write(response, part, have if resumed else 0)


def _write(response: HTTPResponse, part: Path, have: int) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else have + int(length)
    name = part.name.removesuffix(".part")
    with (
        open(part, "ab" if have else "wb") as file,
        tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"{_size(part):,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cannot(url: str, error: Exception, root: Path) -> str:
    name = url.rpartition("/")[2]
    return (
        f"{url} cannot be downloaded ({reason(error)}): run again to continue, or get {name} elsewhere and put it "
        f"into '{root}'"
    )


# Archives


def _unpack_file(file: File, path: Path, unpacked: Path) -> None:
    folder = unpacked / file.folder
    try:
        unpack(path, folder)
        if file.inner is not None:
            unpack(folder / file.inner, folder)
    except BROKEN_ARCHIVE as error:
        raise UserError(f"'{path}' is damaged ({reason(error)}): delete it and run again") from None


def unpack(path: Path, folder: Path) -> None:
    """Unpack a .tar.gz, .tgz, .zip or .gz into `folder`. Any other file is copied there.

    Raises:
        UserError: a member would land outside of `folder`, or is neither a file, nor a folder, nor a link within it.
        BROKEN_ARCHIVE: the archive is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".tar.gz", ".tgz")):
        _unpack_tar(path, folder)
    elif path.suffix == ".zip":
        _unpack_zip(path, folder)
    elif path.suffix == ".gz":
        with gzip.open(path) as source, open(folder / path.stem, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
    else:
        shutil.copyfile(path, folder / path.name)


def _unpack_tar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        for member in tqdm(archive, desc=f"unpacking {path.name}", unit=" files", leave=False, disable=None):
            _refuse_if(_leaves(member.name), path, member.name)
            try:
                archive.extract(member, folder, filter="data")  # refuses links that leave, and devices
            except tarfile.FilterError:
                _refuse_if(True, path, member.name)


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in tqdm(archive.infolist(), desc=f"unpacking {path.name}", unit=" files", leave=False, disable=None):
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            _refuse_if(is_link or _leaves(member.filename), path, member.filename)
            archive.extract(member, folder)


def _leaves(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts


def _refuse_if(is_unsafe: bool, path: Path, member: str) -> None:
    if is_unsafe:
        raise UserError(f"'{path.name}' is not safe to unpack: its member {member!r} would leave the folder; delete it")
