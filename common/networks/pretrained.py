"""Download timm's pretrained weights, and explain in one line why that failed."""

import contextlib
import errno
import http.client
import importlib
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import HfHubHTTPError
from safetensors import SafetensorError
from timm.models import get_pretrained_cfg

from common.errors import UserError
from common.networks import backbone_files
from common.system import checkpoint, memory, processes


class DownloadError(UserError):
    """timm's weights could not be downloaded.

    Attributes:
        problem: what is wrong and how to put that right, without the flags that do without a download.
    """

    def __init__(self, problem: str):
        super().__init__(f"{problem}, or give --pretrained-backbone FILE or --scratch")
        self.problem = problem


def _http_errors() -> tuple[type[Exception], ...]:
    """The errors of the library that the hub's client uses: requests, httpx or a later one, by version."""
    library = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    names = ("HTTPError", "RequestException", "InvalidURL", "StreamError")
    return tuple(getattr(library, name) for name in names if hasattr(library, name))


UNREACHABLE: tuple[type[Exception], ...] = (OSError, http.client.HTTPException, *_http_errors())
FAILED: tuple[type[Exception], ...] = (*UNREACHABLE, *checkpoint.UNREADABLE, SafetensorError)
NOT_KEPT = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
SECONDS = 10  # to wait for the hub's first answer
# The hub's client and urllib obey these, in lower case, too.
VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "HF_ENDPOINT", "HF_HUB_OFFLINE")


@contextlib.contextmanager
def of_weights(name: str) -> Iterator[None]:
    """Within the block, timm makes the network `name` with pretrained weights; one process of each machine goes first.

    Args:
        name: a tagged name of timm.

    Raises:
        UserError: the weights cannot be downloaded, written to the cache, or read from it.
    """
    try:
        with processes.first_of_machine_first():
            if not _cached(name):
                _look_for_hub(name)
            yield
    except FAILED as error:
        if memory.shortage(error):
            raise
        _explain(error, name)


def _look_for_hub(name: str) -> None:
    """Connect to the hub once. Without a network, its client tries twelve times in 47 seconds, and prints a page.

    Raises:
        OSError: nobody answers.
    """
    config: Any = get_pretrained_cfg(name)
    hub = urlparse(constants.ENDPOINT)
    has_proxy = urllib.request.getproxies().keys() & {"all", hub.scheme}
    if config.hf_hub_id and hub.hostname and not has_proxy and not constants.HF_HUB_OFFLINE:
        socket.create_connection((hub.hostname, hub.port or hub.scheme), timeout=SECONDS).close()


def _explain(error: Exception, name: str) -> NoReturn:
    files = _cached(name)
    for file in files:
        _check(file, name)
    reason = checkpoint.why(error)
    if isinstance(error, OSError) and error.errno in NOT_KEPT:
        raise UserError(
            f"the weights of '{name}' cannot be kept in the cache or read there ({reason}): free some space, change "
            "its permissions, or name another folder in the variables HF_HOME and TORCH_HOME"
        ) from None
    # A bad proxy setting fails even with cached weights. If nothing is cached, the download failed, not the reading.
    has_bad_proxy = isinstance(error, ImportError | ValueError) and "proxy" in reason.lower()
    never_came = not files and isinstance(error, ImportError | ValueError | RuntimeError)
    if not (isinstance(error, UNREACHABLE) or has_bad_proxy or never_came):
        raise error
    present = [key for key in os.environ if key.upper() in VARIABLES and os.environ[key]]
    if not os.path.exists(os.environ.get("SSL_CERT_FILE", os.devnull)):
        present.append("SSL_CERT_FILE")
    remedy = f"check or unset {', '.join(present)}" if present else "connect to the internet once"
    raise DownloadError(f"the weights of '{name}' could not be downloaded ({reason}): {remedy}") from None


def _cached(name: str) -> list[Path]:
    """The files in the cache that timm would read the weights from."""
    config: Any = get_pretrained_cfg(name)
    if config.hf_hub_id:
        repository = config.hf_hub_id.partition("@")[0]
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        found = folder.glob("snapshots/*/*")
        return [file for file in found if file.suffix in (".safetensors", ".bin", ".pth") and file.is_file()]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(config.url).path).name)
    return [file] if file.is_file() else []


def _check(file: Path, name: str) -> None:
    try:
        backbone_files.read_unchecked(file)
    except (*checkpoint.UNREADABLE, SafetensorError) as error:
        # The hub's files are links. Name the target: if only the link is deleted, the hub links to it again.
        raise UserError(
            f"'{file.resolve()}', where the weights of '{name}' are kept, is damaged ({checkpoint.why(error)}): "
            "delete it, and they are downloaded again"
        ) from None
