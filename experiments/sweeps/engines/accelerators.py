"""The accelerators of this machine, and how a process is kept to one of them."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping

from experiments.errors import UserError

Variables = Mapping[str, str]

# What a process's environment says of the accelerators that it may see.
_VISIBLE = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "rocm": "HIP_VISIBLE_DEVICES",
    "tpu": "TPU_VISIBLE_CHIPS",
}
# A process with one chip of a TPU host also has to be told that it is alone.
_ALONE = {"tpu": {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}}
_QUESTION = """
import jax
for kind in {kinds}:
    try:
        devices = jax.local_devices(backend=kind)
        if kind == "tpu":  # a chip of TPU v2 or v3 is two devices
            print(kind, len({{tuple(each.coords) for each in devices}}))
        else:
            print(kind, len(devices))
    except RuntimeError:  # there is none of this kind
        pass
"""


def environments(count: int | None = None) -> list[Variables]:
    """For each accelerator the environment of a process that is to see it alone.

    Args:
      count: how many to take; None for all.

    Raises:
      UserError: there are fewer.
    """
    kind, number = _counted() if _may_be_any() else ("", 0)
    if count is not None and count > number:
        raise UserError(
            f"--devices={count}: this machine has {number} accelerators; give at most that"
            if number
            else f"--devices={count}: jax finds no accelerator here; give --workers for processes "
            "on CPU"
        )
    given = os.environ.get(_VISIBLE.get(kind, ""), "")
    names = given.split(",") if given else [str(index) for index in range(number)]
    return [{_VISIBLE[kind]: name, **_ALONE.get(kind, {})} for name in names[:number][:count]]


def _may_be_any() -> bool:
    """Whether jax could find one: a plugin is installed, and JAX_PLATFORMS allows it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def _counted() -> tuple[str, int]:
    """The kind of accelerator that jax finds, and how many.

    Asked in a process of its own, so that this one holds no memory of any.
    """
    answer = subprocess.run(
        [sys.executable, "-c", _QUESTION.format(kinds=tuple(_VISIBLE))],
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        reason = answer.stderr.strip().rpartition("\n")[2]
        raise UserError(
            f"jax cannot list its devices ({reason}): fix that, or set JAX_PLATFORMS=cpu"
        )
    for line in answer.stdout.splitlines():
        kind, number = line.split()
        return kind, int(number)
    return "", 0
