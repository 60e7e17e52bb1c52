"""Decoded arrays on disk: one uncompressed .npz and a JSON manifest with their SHA-256.

Both files are written beside their final place and moved there, so a reader never sees half a
file, and processes that start at once do no harm: they write the same bytes. What is returned is
what was hashed, so nothing that fails its checksum is ever trained on.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.specs import Arrays, Spec, digest
from experiments.errors import one_line
from experiments.files import remove_partial, replacing, write_text

_ABANDONED_SECONDS = 3600.0  # after which a half-written file has no writer any more


# What reading a damaged file raises: `RuntimeError` and `NotImplementedError` come from zipfile.
_DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile)


class DamagedCacheError(Exception):
    """The cache is damaged; the message says how."""


def paths(directory: Path, spec: Spec) -> tuple[Path, Path]:
    """Where the arrays and the manifest of `spec` lie in `directory`."""
    stem = f"{spec.name}-{spec.version}"
    return directory / f"{stem}.npz", directory / f"{stem}.json"


def write(directory: Path, spec: Spec, arrays: Arrays) -> None:
    """Writes `arrays`, then the manifest that vouches for them.

    Raises:
      OSError: the directory cannot be made or written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    arrays_path, manifest_path = paths(directory, spec)
    remove_partial(directory, older_than=_ABANDONED_SECONDS)
    with replacing(arrays_path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    write_text(manifest_path, json.dumps(_manifest(spec, arrays), indent=2) + "\n")


def read(directory: Path, spec: Spec) -> Arrays | None:
    """Reads the arrays back, verified against the manifest; None where there is no cache.

    Raises:
      DamagedCacheError: unreadable, truncated or altered, or the arrays of other data.
    """
    arrays_path, manifest_path = paths(directory, spec)
    try:
        manifest = json.loads(manifest_path.read_bytes())
        with np.load(arrays_path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGE as error:
        raise DamagedCacheError(f"cannot be read ({one_line(error)})") from error
    found = _manifest(spec, arrays)
    if manifest != found:
        raise DamagedCacheError("does not match the SHA-256 or the sizes in its manifest")
    if {name: entry["sha256"] for name, entry in found["arrays"].items()} != dict(spec.digests):
        raise DamagedCacheError(f"does not hold {spec.name} {spec.version} as published")
    return arrays


def _manifest(spec: Spec, arrays: Arrays) -> dict[str, Any]:
    """What the manifest of these arrays says: set, version, counts, and each array's checksum."""
    entries = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest(array)}
        for name, array in sorted(arrays.items())
    }
    return {
        "name": spec.name,
        "version": spec.version,
        "counts": dict(spec.splits),
        "arrays": entries,
    }
