"""Rewrites of jaxprs: loop-invariant work leaves loops; convolutions in loops get fast layouts.

XLA compiles the body of a loop separately. It does not hoist loop-invariant code, at least in the
backward pass, and on CPU it optimizes the layouts of convolutions only outside of loops; inside
one, the gradients of a convolution take about twenty times as long.

`depends_across_devices`, `num_bytes`, and `coarsest_rounding` only read a program.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

Evaluate = Callable[[Any, list[Any]], Sequence[Any]]
_PROGRAMS = (core.Jaxpr, core.ClosedJaxpr)
# Equations whose inputs and results are those of the program in them. JAX has two names for remat.
_CALLS = frozenset({"remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "closed_call"})


class _Later:
    """A value that is known only in the loop."""


def hoist(
    function: Callable[[Array], Array], example: Array
) -> tuple[list[Array], Callable[[list[Array], Array], Array]]:
    """Runs the part of a function that does not depend on its argument; returns it and the rest.

    Derivatives of the rest in the arrays, and of the arrays in what `function` closes over, are
    those of the function.

    Args:
      function: function of one array, to be mapped over many.
      example: an argument; its shape and dtype are read.

    Returns:
      Arrays, and `rest` with `rest(arrays, x) = function(x)`.

    Example:
      >>> import jax.numpy as jnp
      >>> arrays, rest = hoist(lambda x: x + jnp.exp(jnp.ones(2)).sum(), jnp.float32(0))
      >>> [array.shape for array in arrays], round(float(rest(arrays, jnp.float32(1))), 2)
      ([()], 6.44)
    """
    program = jax.make_jaxpr(function)(example)
    argument, tape = _Later(), list[tuple[Any, list[Any], list[_Later]]]()

    def evaluate(eqn: Any, values: list[Any]) -> Sequence[Any]:
        if not any(isinstance(value, _Later) for value in values):
            return _bind(eqn, values)
        results = [_Later() for _ in eqn.outvars]
        tape.append((eqn, values, results))
        return results

    [output] = _run(program.jaxpr, program.consts, [argument], evaluate)
    read = [value for _, values, _ in tape for value in values]
    arrays = {id(value): value for value in [*read, output] if isinstance(value, jax.Array)}

    def rest(known: list[Array], x: Array) -> Array:
        found: dict[int, Any] = {**dict(zip(arrays, known, strict=True)), id(argument): x}
        for eqn, values, results in tape:
            given = [found.get(id(value), value) for value in values]
            found.update(zip(map(id, results), _bind(eqn, given), strict=True))
        result: Array = found.get(id(output), output)
        return result

    return list(arrays.values()), rest


def canonical_convolutions(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, with convolutions in the layout for which XLA is fast on CPU.

    Outside of loops, XLA transposes the arrays itself, and this changes nothing.

    Args:
      function: function of arrays; its derivatives, if it takes any, are rewritten, too.

    Example:
      >>> import jax.numpy as jnp
      >>> twice = canonical_convolutions(lambda x: jnp.convolve(x, jnp.full(1, 2.0)))
      >>> twice(jnp.arange(3.0)).tolist()
      [0.0, 2.0, 4.0]
    """

    def evaluate(eqn: Any, values: list[Any]) -> Sequence[Any]:
        if eqn.primitive is jax.lax.conv_general_dilated_p:
            return [_canonical(*values, **eqn.params)]
        return _bind(eqn, values)

    def rewritten(*arguments: PyTree) -> PyTree:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _run(program.jaxpr, program.consts, jax.tree.leaves(arguments), evaluate)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


def num_bytes(function: Callable[..., PyTree], *arguments: PyTree) -> int:
    """The bytes of all intermediate values of a function, and of its results.

    Example:
      >>> import jax.numpy as jnp
      >>> num_bytes(lambda x: jnp.exp(2 * x), jnp.ones(8))
      64
    """
    program, total = jax.make_jaxpr(function)(*arguments), 0

    def evaluate(eqn: Any, _values: list[Any]) -> Sequence[Any]:
        nonlocal total
        total += sum(var.aval.size * var.aval.dtype.itemsize for var in eqn.outvars)
        return eqn.outvars

    _run(program.jaxpr, program.consts, jax.tree.leaves(arguments), evaluate)
    return total


def coarsest_rounding(function: Callable[..., PyTree], *arguments: PyTree) -> float:
    """The largest machine epsilon among the dtypes in which a function computes.

    Example:
      >>> import jax.numpy as jnp
      >>> coarsest_rounding(lambda x: (2 * x.astype(jnp.bfloat16)).sum(), jnp.ones(8))
      0.0078125
    """

    def epsilons(program: Any) -> Iterator[float]:
        for eqn in program.eqns:
            dtypes = [getattr(var.aval, "dtype", None) for var in eqn.outvars]
            floats = [dtype for dtype in dtypes if dtype and jnp.issubdtype(dtype, jnp.inexact)]
            yield from (float(jnp.finfo(dtype).eps) for dtype in floats)
            for inner in _inside(eqn):
                yield from epsilons(inner)

    return max(epsilons(jax.make_jaxpr(function)(*arguments).jaxpr), default=0.0)


class _Dependence(enum.Enum):
    """How a value depends on a program's arguments: on this device, or also on the others'."""

    LOCAL = enum.auto()
    ACROSS = enum.auto()


def depends_across_devices(
    function: Callable[..., PyTree], *arguments: PyTree, axes: frozenset[str]
) -> bool:
    """Whether a result depends on the arguments of other devices, through a collective.

    Args:
      function: function of arrays, under `shard_map` or `pmap`; it is only traced.
      arguments: its arguments, or their shapes.
      axes: names of the mesh axes along which they differ.

    Example:
      >>> import jax.numpy as jnp
      >>> depends_across_devices(jnp.exp, jnp.ones(2), axes=frozenset({"data"}))
      False
    """
    program = jax.make_jaxpr(function)(*arguments)

    def evaluate(eqn: Any, values: list[Any]) -> Sequence[Any]:
        if _joined(values) is None:
            return [None] * len(eqn.outvars)
        if (known := _followed(eqn, values, evaluate, axes)) is not None:
            return known
        found = _Dependence.ACROSS if _communicates(eqn, axes) else _joined(values)
        return [found] * len(eqn.outvars)

    own = [_Dependence.LOCAL] * len(program.jaxpr.invars)
    return _Dependence.ACROSS in _through(program, own, evaluate)


def _joined(values: Iterable[Any]) -> _Dependence | None:
    """How a value computed from these depends on the arguments; None if not at all."""
    found = {value for value in values if isinstance(value, _Dependence)}
    return _Dependence.ACROSS if _Dependence.ACROSS in found else next(iter(found), None)


def _through(program: Any, values: Sequence[Any], evaluate: Evaluate) -> list[Any]:
    """How the results of a program depend on the arguments, if its inputs do so."""
    jaxpr = _opened(program)
    found = _run(jaxpr, [None] * len(jaxpr.constvars), values, evaluate)
    return [_joined([value]) for value in found]


def _followed(
    eqn: Any, values: list[Any], evaluate: Evaluate, axes: frozenset[str]
) -> Sequence[Any] | None:
    """How each result of an equation with programs in it depends on the arguments.

    None if it is not of a kind whose inputs are known to be those of the programs.
    """
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS:
        [program] = [params[part] for part in ("jaxpr", "call_jaxpr") if part in params]
        return _through(program, values, evaluate)
    if name == "cond":
        chosen, *operands = values
        if isinstance(chosen, _Dependence) and _communicates(eqn, axes):
            return None  # devices that differ in their choice
        branches = [_through(branch, operands, evaluate) for branch in params["branches"]]
        return [_joined([chosen, *results]) for results in zip(*branches, strict=True)]
    if name == "scan":
        program = _opened(params["jaxpr"])
        carried = _num_unmapped(eqn.outvars, program.outvars)
        last = _num_unmapped(eqn.invars, program.invars)
        first = last - carried
        consts, carry, xs = values[:first], values[first:last], values[last:]

        def body(carry: list[Any]) -> list[Any]:
            return _through(program, [*consts, *carry, *xs], evaluate)

        carry = _settled(lambda carry: body(carry)[: len(carry)], carry)
        return [*carry, *body(carry)[len(carry) :]]
    if name == "while":
        condition, changed = _opened(params["cond_jaxpr"]), _opened(params["body_jaxpr"])
        first = len(condition.invars) - len(eqn.outvars)
        last = len(values) - len(eqn.outvars)
        asked, consts, carry = values[:first], values[first:last], values[last:]

        def step(carry: list[Any]) -> list[Any]:
            goes_on = _through(condition, [*asked, *carry], evaluate)
            after = _through(changed, [*consts, *carry], evaluate)
            return [_joined([*goes_on, each]) for each in after]

        return _settled(step, carry)
    return None


def _settled(step: Callable[[list[Any]], list[Any]], carry: list[Any]) -> list[Any]:
    """How the carry of a loop depends on the arguments after any number of steps."""
    before, carry = None, [_joined([each]) for each in carry]
    while carry != before:
        before, after = carry, step(carry)
        carry = [_joined(pair) for pair in zip(before, after, strict=True)]
    return carry


def _communicates(eqn: Any, axes: frozenset[str]) -> bool:
    """Whether an equation, or one of the programs in it, combines the data of several devices."""
    name = eqn.primitive.name
    if name in ("axis_index", "pvary", "shard_map"):  # the axes of the last are its own
        return False
    own = eqn.params.get("axes", eqn.params.get("axis_name", ()))
    if not axes.isdisjoint(own if isinstance(own, tuple) else (own,)):
        return True
    return any(_communicates(inner, axes) for program in _inside(eqn) for inner in program.eqns)


def _inside(eqn: Any) -> list[Any]:
    """The programs in an equation, such as the body of a loop."""
    parts = jax.tree.leaves(eqn.params, is_leaf=lambda part: isinstance(part, _PROGRAMS))
    return [_opened(part) for part in parts if isinstance(part, _PROGRAMS)]


def _opened(program: Any) -> Any:
    """A program without its constants; which programs have them depends on the version of JAX."""
    return getattr(program, "jaxpr", program)


def _num_unmapped(around: Sequence[Any], within: Sequence[Any]) -> int:
    """How many of the values of a scan are the same in its body; those it maps over come last.

    Read off the shapes, as JAX 0.12 renamed the parameters that count them.
    """
    return sum(
        outer.aval.ndim == inner.aval.ndim for outer, inner in zip(around, within, strict=True)
    )


def _canonical(lhs: Array, rhs: Array, *, dimension_numbers: Any, **params: Any) -> Array:
    """A convolution with the batch first and the channels last, also in the kernel."""
    (batch, feature, *space), (outputs, inputs, *kernel), out = dimension_numbers
    last = lhs.ndim - 1
    spatial = tuple(range(1, last))
    channels_last = (0, last, *spatial)
    numbers = jax.lax.ConvDimensionNumbers(
        channels_last, (last, last - 1, *range(last - 1)), channels_last
    )
    result = jax.lax.conv_general_dilated_p.bind(
        lhs.transpose(batch, *space, feature),
        rhs.transpose(*kernel, inputs, outputs),
        dimension_numbers=numbers,
        **params,
    )
    order = sorted(range(lhs.ndim), key=lambda axis: (out[0], *out[2:], out[1])[axis])
    return result.transpose(order)


def _run(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], evaluate: Evaluate) -> list[Any]:
    """Runs a program by `evaluate` on each equation, including those of jitted functions in it."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        if eqn.primitive is core.primitives.jit_p:
            inner = eqn.params["jaxpr"]
            results: Sequence[Any] = _run(inner.jaxpr, inner.consts, given, evaluate)
        else:
            results = evaluate(eqn, given)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bind(eqn: Any, values: list[Any]) -> Sequence[Any]:
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # before JAX 0.12
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *values, **params)
    outputs: Sequence[Any] = results if eqn.primitive.multiple_results else [results]
    return outputs
