"""Fetches the published files, each checked against its registered SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import requests
from tqdm import tqdm

from experiments.errors import UserError

_TIMEOUT_SECONDS = 10.0  # To connect, and between two pieces of the answer.
_ATTEMPTS = 2
_PAUSE_SECONDS = 1.0
_PIECE_BYTES = 1 << 20


class UrlInfo(Protocol):
    """What tensorflow-datasets registers about a file: its SHA-256 and its name."""

    checksum: str
    filename: str | None


class DownloadError(Exception):
    """A file cannot be had: no network, or a server that does not answer as it should."""


def fetch_missing(url_infos: Mapping[str, UrlInfo], directory: Path) -> None:
    """Downloads the files that `directory` lacks, and verifies all of them.

    tensorflow-datasets then takes the files from there, as if a user had put them there by hand,
    and checks them once more. Its own downloader is passed over because it sets no timeout and
    retries for minutes: on a machine with no network it seems to hang.

    Args:
      url_infos: registered SHA-256 and file name of each address.
      directory: where the files lie; made if absent.

    Raises:
      DownloadError: a file cannot be downloaded.
      UserError: a file does not match its checksum.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for url, info in url_infos.items():
        path = directory / (info.filename or url.rsplit("/", 1)[-1])
        if not path.exists():
            _download(url, info.checksum, path)
        elif _sha256(path) != info.checksum:
            raise UserError(
                f"{path} is truncated or corrupted: its SHA-256 is not the one registered for "
                f"{url}; delete the file and run again"
            )


def _download(url: str, checksum: str, path: Path) -> None:
    """Downloads one file; it appears at `path` only once its checksum is known to match."""
    logging.getLogger(__name__).info("downloading %s", url)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _stream_with_retry(url, partial)
        if _sha256(partial) != checksum:
            raise UserError(
                f"the download of {url} is truncated or corrupted: its SHA-256 is not the "
                "registered one; it was discarded, run again to repeat it"
            )
        partial.replace(path)
    except requests.RequestException as error:
        response = error.response
        reason = type(error).__name__ if response is None else f"HTTP {response.status_code}"
        raise DownloadError(f"cannot download {url} ({reason})") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _stream_with_retry(url: str, path: Path) -> None:
    for _ in range(_ATTEMPTS - 1):
        try:
            return _stream(url, path)
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(_PAUSE_SECONDS)
    return _stream(url, path)


def _stream(url: str, path: Path) -> None:
    answer = requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS)
    with answer as response, path.open("wb") as out:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        name = url.rsplit("/", 1)[-1]
        with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None) as bar:
            for piece in response.iter_content(_PIECE_BYTES):
                out.write(piece)
                bar.update(len(piece))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
