"""Compiled programs kept on disk between processes, so that each is compiled once per machine."""

import contextlib
import hashlib
import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import jax

from experiments.errors import UserError
from experiments.files import home
from experiments.training.provenance import num_cores

_MOST_BYTES = 1 << 28  # jax removes the least recently used ones, and looks at all for it
_STALE_SECONDS = 30 * 24 * 3600.0  # after which another processor's or version's programs go
_HALF_SECONDS = 60.0  # after which no process is still writing the other half
_CPU_LINES = ("model name", "flags", "Features", "CPU part")


def keep_compilations() -> None:
    """Has jax keep what it compiles below `~/.cache/gumbel`, and look there first.

    If the environment names a directory for jax, that is used as it is. A cache that cannot be
    written costs the time to compile and nothing else.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        directory = home() / "compiled" / fingerprint()
        directory.mkdir(parents=True, exist_ok=True)
        os.utime(directory)
        _remove_stale(directory.parent)
        _remove_halves(directory)
    except (OSError, UserError):  # the latter: there is no home directory
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def fingerprint() -> str:
    """What programs for a CPU are compiled for: this processor, the threads it may use, XLA.

    jax's own key has neither the processor's instructions nor the number of threads, which XLA
    decides by how to divide the work of a program.
    """
    parts = [platform.machine(), jax.__version__, version("jaxlib"), *_processor()]
    if "NPROC" in os.environ:  # what XLA goes by
        parts.append(os.environ["NPROC"])
    else:
        parts.append(str(num_cores() or os.cpu_count()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(_CPU_LINES)})


def _remove_stale(directory: Path) -> None:
    for path in directory.iterdir():
        with contextlib.suppress(OSError):  # another process may be removing it
            if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _remove_halves(directory: Path) -> None:
    """Removes programs whose time of use is missing, as a kill between the two leaves them.

    With a single one of them, jax would cache nothing any more.
    """
    for path in directory.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process may be removing it
            time_of_use = path.with_name(path.name.removesuffix("-cache") + "-atime")
            written_before = time.time() - path.stat().st_mtime
            if written_before > _HALF_SECONDS and not time_of_use.exists():
                path.unlink()
