"""The memory that a program needs, estimated before its first step.

The estimate is of what a compiler cannot do without: the arguments, and the results of matrix
products, convolutions, gathers, random bits and loops for as long as they are used. Elementwise
operations are fused, and reuse the memory of their inputs. So it is about what the program
takes, or less: nothing that would fit is refused, and what passes but does not fit fails later.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend import core

from experiments.errors import short
from experiments.settings import Settings
from experiments.training import backend
from experiments.training.out_of_memory import OutOfMemoryError

# Primitives whose results are written to memory; of products, the operands are, too.
_PRODUCTS = {"dot_general", "conv_general_dilated"}
_WRITTEN = _PRODUCTS | {
    "scan",
    "cond",
    "gather",
    "scatter",
    "scatter-add",
    "sort",
    "cumsum",
    "cumlogsumexp",
    "random_bits",
    "concatenate",
    "dynamic_update_slice",
}
# Those whose result is another view of an argument.
_VIEWS = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "copy"}
# Whole numbers of a config that do not make a step larger.
_NOT_SIZES = {
    *("num_steps", "seed", "num_labels", "temperature.interval", "eval_batch_size"),
    *("test_num_samples", "validation_num_samples", "monitor_num_samples"),
    *("log_every", "eval_every", "checkpoint_every", "steps_per_call"),
}


class Need(NamedTuple):
    """What one part of a run needs.

    Attributes:
      what: the part, for the error.
      size: size in bytes.
      keys: config keys that it grows with, besides the sizes of the model.
    """

    what: str
    size: int
    keys: frozenset[str] = frozenset()


def check(needs: Iterator[Need], settings: Settings, devices: int = 1) -> None:
    """Checks that the devices have the memory that each part needs.

    Args:
      needs: generated one by one; the first are cheap to estimate.
      settings: settings of any of the runs.
      devices: how many share the needs.

    Raises:
      OutOfMemoryError: it says how much is needed, and which key to lower.
    """
    held = device_memory(devices)
    for need in needs:
        if held is not None and need.size > held:
            key, value = _largest(settings, need.keys)
            raise OutOfMemoryError(
                f"config.{key}={short(value)}: {need.what} needs {_gib(need.size)} of memory and "
                f"there is {_gib(held)}: lower {_advice(settings, key)}"
            )


def size_of(tree: Any) -> int:
    """The bytes of a tree of arrays, or of their shapes."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def size_of_call(traced: Any) -> int:
    """The bytes that a call of a function needs, arguments included.

    Args:
      traced: the function's `jax.stages.Traced`.

    Example:
      >>> import jax.numpy as jnp
      >>> square = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
      >>> size_of_call(jax.jit(lambda x: jnp.tanh(x @ x).sum()).trace(square)) / 1e6
      8.0
    """
    closed = traced.jaxpr
    arguments = sum(_size(var.aval) for var in closed.jaxpr.invars)
    return arguments + _temporaries(closed.jaxpr)[0]


def _temporaries(jaxpr: core.Jaxpr) -> tuple[int, list[int]]:
    """The bytes that are written at the worst moment, and those of each output."""
    last_use: dict[Any, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        last_use |= dict.fromkeys(_variables(eqn), index)
    last_use |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    ending: dict[int, list[Any]] = {}
    for var, index in last_use.items():
        ending.setdefault(index, []).append(var)
    held: dict[Any, int] = dict.fromkeys((*jaxpr.invars, *jaxpr.constvars), 0)
    worst = 0
    for index, eqn in enumerate(jaxpr.eqns):
        live = sum(held.values())
        inner, written = _written(eqn)
        worst = max(worst, live + max(inner, sum(written)) + _operands(eqn, held))
        seen = eqn.primitive.name in _VIEWS and any(var in held for var in _variables(eqn))
        free = sum(held.pop(var, 0) for var in ending.get(index, ()))
        for var, size in zip(eqn.outvars, written, strict=True):
            # An elementwise result takes the place of what it was made of.
            in_place = 0 if size else min(_size(var.aval), free)
            free -= in_place
            if var in last_use and (seen or size + in_place):
                held[var] = size + in_place
    sizes = [held.get(var, 0) if isinstance(var, core.Var) else 0 for var in jaxpr.outvars]
    return max(worst, sum(held.values())), sizes


def _operands(eqn: core.JaxprEqn, held: Mapping[Any, int]) -> int:
    """The bytes of a product's operands that were not written before: now they have to be."""
    if eqn.primitive.name not in _PRODUCTS:
        return 0
    return sum(_size(var.aval) for var in _variables(eqn) if var not in held)


def _variables(eqn: core.JaxprEqn) -> list[core.Var]:
    return [var for var in eqn.invars if isinstance(var, core.Var)]


def _written(eqn: core.JaxprEqn) -> tuple[int, list[int]]:
    """The bytes of an operation's temporaries, and those of each result that is written."""
    sizes = [_size(var.aval) for var in eqn.outvars]
    inner = [_temporaries(jaxpr) for jaxpr in _inside(eqn)]
    if eqn.primitive.name in _WRITTEN:
        if eqn.primitive.name == "scan":  # what it carries is changed in place
            [body] = _inside(eqn)
            pairs = zip(eqn.outvars, body.outvars, sizes, strict=True)
            sizes = [size * (_rank(outer) > _rank(inside)) for outer, inside, size in pairs]
        return max((worst for worst, _ in inner), default=0) + sum(sizes), sizes
    if len(inner) == 1 and len(inner[0][1]) == len(sizes):  # a call, by so many devices
        [(worst, each)] = inner
        devices = eqn.params["mesh"].size if eqn.primitive.name == "shard_map" else 1
        return devices * worst, [devices * size for size in each]
    return max((worst for worst, _ in inner), default=0), [0] * len(sizes)


def _inside(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The functions that an operation calls."""
    for value in eqn.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _rank(var: Any) -> int:
    return len(getattr(var.aval, "shape", ()))


def _size(aval: Any) -> int:
    itemsize = getattr(aval.dtype, "itemsize", 0) if hasattr(aval, "dtype") else 0
    return math.prod(getattr(aval, "shape", ())) * int(itemsize)


def device_memory(devices: int = 1) -> int | None:
    """The bytes that so many devices have, or this machine has; None if that is not known."""
    stats = backend.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return devices * int(stats["bytes_limit"])
    if jax.process_count() > 1:  # on machines that need not be alike
        return None
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:  # the limit of the container, or "max"
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return machine


def _largest(settings: Settings, extra: frozenset[str]) -> tuple[str, Any]:
    """The size that is the largest multiple of its default, with its value."""
    sizes: list[tuple[str, Any, Any]] = [
        (dotted, value, key.default)
        for dotted, key, value in settings.items()
        if dotted in extra or (key.kind in (int, tuple) and dotted not in _NOT_SIZES)
    ]
    known = settings.estimator.spec.options
    sizes += [
        (f"estimator.{option}", value, known[option].default)
        for option, value in settings.estimator.options.items()
        if option in known and known[option].kind is int
    ]
    key, value, _ = max(sizes, key=lambda size: _most(size[1]) / _most(size[2]))
    return key, value


def _most(value: Any) -> int:
    numbers = value if isinstance(value, tuple) else (value,)
    return max((int(number) for number in numbers if isinstance(number, int)), default=1) or 1


def _advice(settings: Settings, key: str) -> str:
    keys = dict.fromkeys((key, "batch_size"))
    if settings.estimator.spec.enumerates:
        keys |= dict.fromkeys(("num_classes", "estimator.chunk_size"))
        return ", ".join(f"config.{each}" for each in keys) + ", or use an estimator that samples"
    return " or ".join(f"config.{each}" for each in keys)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size < 2**50 else f"{size / 2**50:.3g} PiB"
