"""Fetches the published files, each checked against its registered SHA-256."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pooch
import requests

from experiments.errors import UserError

TIMEOUT_SECONDS = 10.0  # to connect, and between two pieces of the response
_RETRIES = 1


class UrlInfo(Protocol):
    """What tensorflow-datasets registers about a file: its SHA-256 and its name."""

    checksum: str
    filename: str | None


class DownloadError(Exception):
    """A file is unavailable: no network, or a server that does not respond as it should."""


def fetch_missing(url_infos: Mapping[str, UrlInfo], directory: Path) -> None:
    """Downloads the files that `directory` lacks, and verifies all of them.

    tensorflow-datasets then takes the files from there, as if a user had put them there by hand,
    and checks them once more. Its own downloader is not used, because it sets no timeout and
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
        elif pooch.file_hash(str(path)) != info.checksum:
            raise UserError(
                f"{path} is truncated or corrupted: its SHA-256 is not the one registered for "
                f"{url}; delete the file and run again"
            )


def _download(url: str, checksum: str, path: Path) -> None:
    """Downloads one file; it appears at `path` only once its checksum is known to match."""
    logging.getLogger(__name__).info("downloading %s", url)
    pooch.get_logger().setLevel(logging.ERROR)
    files = pooch.create(
        path=path.parent,
        base_url="",
        registry={path.name: f"sha256:{checksum}"},
        urls={path.name: url},
        retry_if_failed=_RETRIES,
    )
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS, progressbar=sys.stderr.isatty())
    try:
        files.fetch(path.name, downloader=downloader)
    except requests.RequestException as error:
        response = error.response
        reason = type(error).__name__ if response is None else f"HTTP {response.status_code}"
        raise DownloadError(f"cannot download {url} ({reason})") from error
    except ValueError as error:
        raise UserError(
            f"the download of {url} is truncated or corrupted: its SHA-256 is not the "
            "registered one; it was discarded, run again to repeat it"
        ) from error
