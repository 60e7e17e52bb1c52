"""Several processes that train one run together, on one machine or many.

Each runs the same program on its own part of the batch. Only the first process reads and writes
the run's directory; what it finds there, or an error, is shared with the others. With a single
process, nothing here costs anything.
"""

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from absl import flags

from experiments.command import USER_ERROR
from experiments.errors import DivergedError, UserError, one_line
from experiments.training.signals import Stop

Value = TypeVar("Value")

CLUSTER = "cluster"  # in place of an address: what SLURM, Open MPI or a TPU slice says
LOST = 1  # the exit status of a process whose peers are gone
_common_errors: list[Exception] = []  # that all processes raise
_CONNECT_SECONDS = 300


class CallOutcome(NamedTuple):
    """What a call gave: a value or an exception."""

    value: Any
    error: Exception | None


def define_flags(values: flags.FlagValues) -> None:
    """The flags of a run by several processes."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first of several processes that train one run, or `cluster` to detect "
        "them from SLURM, Open MPI or the TPU slice",
        **define,
    )
    flags.DEFINE_integer(
        "num_processes", None, "number of processes; with --coordinator=HOST:PORT", **define
    )
    flags.DEFINE_integer("process_id", None, "rank of this process, starting from 0", **define)


def join(given: Mapping[str, Any]) -> None:
    """Joins the other processes of the run, if the flags name any; call it before using jax.

    Raises:
      UserError: flags that do not go together, or no coordinator can be reached.
    """
    address = given.get("coordinator")
    numbers: dict[str, Any] = {name: given.get(name) for name in ("num_processes", "process_id")}
    if address is None:
        for name, value in numbers.items():
            if value is not None:
                raise UserError(f"--{name} is for several processes: also give --coordinator")
        return
    if address == CLUSTER:
        for name, value in numbers.items():
            if value is not None:
                raise UserError(f"--{name}: leave it out, --coordinator={CLUSTER} knows it")
        address, where = None, "no cluster is found in the environment"
    else:
        _check(address, **numbers)
        where = "the processes cannot connect there"
    # Its handler would replace that of the loop, which saves and stops at SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(address, **numbers, initialization_timeout=_CONNECT_SECONDS)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--coordinator={given['coordinator']}: {where} ({one_line(error)}); give HOST:PORT "
            "of the first process, with --num_processes and --process_id"
        ) from error


def _check(address: str, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={address}: give HOST:PORT, or {CLUSTER}")
    if num_processes is None or process_id is None:
        raise UserError(f"--coordinator={address}: give --num_processes and --process_id, too")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: give a number from 0 to {num_processes - 1}, of "
            f"--num_processes={num_processes}"
        )


def leave_alone(error: Exception) -> None:
    """Ends this process at once, after an error that the other processes do not know of.

    They are gone, or wait for this one, and would for minutes after an orderly end. Returns if all
    have the same error, or if there are no others.
    """
    if not several() or isinstance(error, DivergedError):  # of numbers that all have
        return
    if any(error is each for each in _common_errors):
        return
    lost = isinstance(error, jax.errors.JaxRuntimeError)
    said = one_line(error)
    if lost:
        said = f"another process of this run is gone ({said}): start all of them again to resume"
    elif not isinstance(error, UserError | OSError):
        traceback.print_exception(error)
    print(f"error: {said}", file=sys.stderr, flush=True)
    os._exit(LOST if lost else USER_ERROR)


def several() -> bool:
    """Whether this process trains together with others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that reads and writes files."""
    return not several() or jax.process_index() == 0


def by_first(function: Callable[[], Value]) -> Value:
    """Calls `function` in the first process; all processes get its result or its exception.

    All of them have to call this, in the same order.
    """
    if not several():
        return function()
    found = CallOutcome(None, None)
    if is_first():
        try:
            found = CallOutcome(function(), None)
        except Exception as error:  # whatever it is, the others have to know
            found = CallOutcome(None, error)
    found = _from_first(found)
    if found.error is not None:
        raise _common(found.error)
    value: Value = found.value
    return value


def _common(error: Exception) -> Exception:
    """The error, noted as one that all processes raise."""
    _common_errors.append(error)
    return error


def by_each(function: Callable[[], Value]) -> Value:
    """Calls `function` in each process; if it raises in any, all of them raise."""
    found = CallOutcome(None, None)
    try:
        found = CallOutcome(function(), None)
    except Exception as error:  # whatever it is, the others have to know
        if not several():
            raise
        found = CallOutcome(None, error)
    failed = _gathered(np.int32(found.error is not None)) if several() else np.zeros(1)
    if found.error is not None:
        raise _common(found.error)
    if failed.any():
        raise _common(UserError(f"process {int(failed.argmax())} failed: see its error message"))
    value: Value = found.value
    return value


def agreed(stop: Stop) -> bool:
    """Whether any of the processes was asked to stop; then all are.

    Signals alone are shared: runs of several processes have no deadline.
    """
    if several():
        signum = int(_gathered(np.int32(stop.signum or 0)).max())
        if signum:
            stop.signum = signum
        return bool(signum)  # a signal that has come since is for the next call, in all processes
    return stop.requested


def refuse_differing(what: str, digest: bytes) -> None:
    """Raises UserError in all processes if the digest is not the same in each."""
    if not several():
        return
    digests = _gathered(np.frombuffer(digest, np.uint8))
    others = [index for index, row in enumerate(digests) if (row != digests[0]).any()]
    if others:
        said = f"{what} of process {others[0]} differs from that of process 0: use one"
        raise _common(UserError(said))


def orbax_options() -> dict[str, Any]:
    """Options that keep orbax from waiting for the other processes, which do not call it."""
    if not several():
        return {}
    import orbax.checkpoint as ocp  # takes half a second to import

    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    return {"multiprocessing_options": options}


def _from_first(found: CallOutcome) -> CallOutcome:
    from jax.experimental import multihost_utils

    data = _pickled(found) if is_first() else b""
    # In two numbers: jax has no integers of 64 bits, and a state may be of over 2 GiB.
    halves = multihost_utils.broadcast_one_to_all(np.array(divmod(len(data), 1 << 30), np.int32))
    buffer = np.zeros((int(halves[0]) << 30) + int(halves[1]), np.uint8)
    if is_first():
        buffer[:] = np.frombuffer(data, np.uint8)
    shared: CallOutcome = pickle.loads(multihost_utils.broadcast_one_to_all(buffer).tobytes())
    return shared


def _pickled(found: CallOutcome) -> bytes:
    try:
        data = pickle.dumps(found)
        pickle.loads(data)
    except Exception:  # such as an exception whose arguments are not those that it was made of
        if found.error is None:
            raise
        return pickle.dumps(CallOutcome(None, RuntimeError(repr(found.error))))
    return data


def _gathered(array: Any) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))
