"""Where the numbers that this process makes come from."""

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.files import ROOT
from experiments.training import backend

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gumbel-jax")
# The shape of what `origin` reads from a file that has the result of `provenance`.
ORIGIN = {
    "versions": {"jax": str},
    "device": {"platform": str, "kind": str},
    "git": ({"commit": str}, None),
}
# XLA's flags that change no number: where it writes, how many devices a CPU simulates.
_WITHOUT_EFFECT = ("xla_dump", "xla_hlo_profile", "xla_force_host_platform_device_count")


def provenance() -> dict[str, Any]:
    """Where numbers made by this process come from, as JSON data.

    Returns:
      `versions` of Python and the packages that matter (None if not installed), `device` as
      platform, kind, count and CPU cores, the settings of `numerics` under shorter names,
      `xla_flags` as in the environment (None if unset), and `git` with the commit and whether files
      differ from it (None outside a git checkout). No host or user name.
    """
    devices = backend.devices()
    settings = numerics()
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "cores": num_cores(),
        },
        "matmul_precision": settings["jax_default_matmul_precision"],
        "prng_impl": settings["jax_default_prng_impl"],
        "threefry_partitionable": settings["jax_threefry_partitionable"],
        "x64": settings["jax_enable_x64"],
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "git": code_state(),
    }


def origin(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a `provenance` that may differ between the rows of one file.

    Example:
      >>> sorted(origin(provenance()))
      ['device', 'git', 'jax']
    """
    return {
        "jax": found["versions"]["jax"],
        "device": found["device"]["kind"],
        "git": found["git"],
    }


def numerics() -> dict[str, str | bool]:
    """The settings of jax and XLA that change a run's numbers, by their names, as JSON data.

    Each can be set by the environment variable of its name in capitals. Of `XLA_FLAGS`, those that
    change no number are left out, and the others sorted.

    Example:
      >>> numerics()["jax_default_prng_impl"]
      'threefry2x32'
    """
    config: Any = jax.config  # its options are attributes that no type declares
    return {
        "jax_default_prng_impl": str(config.jax_default_prng_impl),
        "jax_threefry_partitionable": bool(config.jax_threefry_partitionable),
        "jax_default_matmul_precision": str(config.jax_default_matmul_precision or "default"),
        "jax_enable_x64": bool(config.jax_enable_x64),
        "jax_disable_most_optimizations": bool(config.read("jax_disable_most_optimizations")),
        "xla_flags": _xla_flags(os.environ.get("XLA_FLAGS", "")),
    }


def _xla_flags(text: str) -> str:
    """The flags that change numbers, the last of those given twice.

    Example:
      >>> _xla_flags("--xla_dump_to=/tmp/x --xla_b=2 --xla_a --xla_b=3")
      '--xla_a --xla_b=3'
    """
    try:
        found = {flag.partition("=")[0]: flag for flag in shlex.split(text)}
    except ValueError:  # XLA reads it in its own way, and says what is wrong
        return text
    kept = [flag for name, flag in found.items() if not name.strip("-").startswith(_WITHOUT_EFFECT)]
    return shlex.join(sorted(kept))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def code_state() -> dict[str, Any] | None:
    """`git_state` of the code as this process first saw it: what is committed later is not run."""
    return git_state(ROOT)


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit checked out at `root`, and whether any file but results differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # somebody else's repository around an installed copy
        changed = git("status", "--porcelain", "--", ".", ":(exclude)results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def num_cores() -> int | None:
    """The CPU cores that this process may use, or None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
