"""The sites of one pass through an objective: how each is drawn and recorded, also in loops."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gumbel.arguments import check_integer, floating
from gumbel.families import Family, family
from gumbel.tracing import divided_as, trace_state, whole
from gumbel.types import Logits, Mask, PRNGKey, Sample

FamilyLike: TypeAlias = "Family | str | Mapping[str, Family | str] | Families | None"


class Families(NamedTuple):
    """The family of each site: one for all, one for each name, or the one that its call names.

    Attributes:
      default: family of the sites that `by_site` does not name.
      by_site: families by the name of the site.
      supported: the names of the families that the estimator supports; all of them if empty.
      estimator: the estimator's name, for messages.
    """

    default: Family | None
    by_site: Mapping[str, Family]
    supported: tuple[str, ...] = ()
    estimator: str = ""

    def restricted(self, supported: tuple[str, ...], estimator: str) -> "Families":
        """The same families, restricted to those that an estimator supports.

        Raises:
          ValueError: a family that is known already is not among them.
        """
        restricted = self._replace(supported=supported, estimator=estimator)
        for known in (self.default, *self.by_site.values()):
            if known is not None:
                restricted.check(known)
        return restricted

    def check(self, known: Family, site: str | None = None) -> Family:
        """Returns `known`; raises ValueError if the estimator does not support it."""
        if self.supported and known.name not in self.supported:
            at = "" if site is None else f" of site {site!r}"
            raise ValueError(
                f"estimator {self.estimator!r} does not support {known.name} variables{at}: it is "
                f"defined for {', '.join(self.supported)}"
            )
        return known

    def at(self, site: str, given: Family | str | None) -> Family:
        """The family of a site; `given` is the one that its call names, if any.

        Raises:
          ValueError: the site has no family, or two.
          TypeError: `given` is neither a family nor a name.
        """
        listed = self.by_site.get(site)
        if given is not None:
            found = _family(given)
            if listed is not None and listed != found:
                raise ValueError(
                    f"site {site!r} is called with family {found.name}, and listed as "
                    f"{listed.name}: give it one of them"
                )
            return self.check(found, site)
        found_or_none = self.default if listed is None else listed
        if found_or_none is None:
            raise ValueError(
                f"site {site!r} has no family: list it in the families given, or call "
                f"sample({site!r}, logits, family=...)"
            )
        return self.check(found_or_none, site)


def as_families(spec: FamilyLike) -> Families:
    """Converts an argument `family` to `Families`.

    Args:
      spec: a family or its name, for all sites; a mapping from sites to them; None if every call
        of a site names its own.

    Raises:
      ValueError: there is no family of this name.
      TypeError: `spec` is something else.

    Example:
      >>> as_families({"edge": "categorical", "gate": "bernoulli"}).at("gate", None).name
      'bernoulli'
    """
    if isinstance(spec, Families):
        return spec
    if isinstance(spec, Mapping):
        return Families(None, {site: _family(one) for site, one in spec.items()})
    return Families(None if spec is None else _family(spec), {})


def _family(spec: Any) -> Family:
    if isinstance(spec, str):
        return family(spec)
    if not isinstance(spec, Family):
        raise TypeError(
            f"family is {spec!r}: give gumbel.BERNOULLI, gumbel.CATEGORICAL, a name, or a mapping "
            "from sites to them"
        )
    return spec


class Site(NamedTuple):
    """What a draw is given: one site of a pass.

    Attributes:
      name: name of the site.
      logits: 0 where masked.
      family: family of its variables.
      given: this site's entry of the arrays given to the pass, at this step of its loops.
      where: the mask of its variables, or None.
    """

    name: str
    logits: Logits
    family: Family
    given: PyTree = None
    where: Mask | None = None


Draw: TypeAlias = Callable[[Site, PRNGKey], Sample]


class Record(NamedTuple):
    """One site of a pass, as recorded; in loops, with an axis of steps for each, `[B, T, ...]`.

    Attributes:
      logits: 0 where masked.
      z: the value that was returned for them.
      family: family of its variables.
      where: the mask of its variables, or None.
      layer: the sites of one outermost loop share a number; every other site has its own. A site
        depends only on sites with lower numbers, and in a loop also on those with its own.
      loops: which loops the site is in, from the outermost one.
      first: the index of each loop's first step: 0, or the last one if the loop runs backward.
    """

    logits: Logits
    z: Sample
    family: Family
    where: Mask | None = None
    layer: int = 0
    loops: tuple[int, ...] = ()
    first: tuple[int, ...] = ()

    @property
    def lead(self) -> int:
        """How many axes precede those of loops: 1 if there is a batch axis, else 0."""
        return lead_of(self.logits, self.family, len(self.loops))

    @property
    def num_values(self) -> int:
        """How many values each variable has."""
        return self.family.num_values(tuple(self.logits.shape))

    def masked(self, per_variable: Float[Array, "B *D"], fill: float = 0.0) -> Float[Array, "..."]:
        """`per_variable`, with `fill` at masked variables."""
        return per_variable if self.where is None else jnp.where(self.where, per_variable, fill)

    def log_prob(self) -> Float[Array, "B *D"]:
        """`log q(z)` of each variable, 0 where masked."""
        return self.masked(self.family.log_prob(self.logits, self.z))

    def mean(self) -> Sample:
        """`E[z]`, 0 where masked."""
        return apply_mask(self.family.mean(self.logits), self.where, self.family)


Records: TypeAlias = dict[str, Record]


class _Loop(NamedTuple):
    """What the sites at one level of nested loops share while they are traced."""

    key: PRNGKey | None
    path: tuple[int, ...]
    given: Mapping[str, PyTree]
    records: Records
    trace: Any  # JAX's trace state when the level began
    calls: list[int]  # how many sites and loops have been asked for


class RecordingSampler:
    """A `Sampler` that draws each site by a `Draw`, and records it.

    Args:
      draw: gives the value of a site.
      key: the sites' keys are folded in by the order of the calls; None for draws without noise.
      families: families of the sites.
      given: arrays by site, in the site's layout, which its draw finds in `Site.given`.
      like: records of an earlier pass, or their shapes, which say in what loops those sites are.
    """

    def __init__(
        self,
        draw: Draw,
        key: PRNGKey | None,
        families: Families,
        given: Mapping[str, PyTree] | None = None,
        like: Mapping[str, "Record"] | None = None,
    ) -> None:
        self._draw = draw
        self.families = families
        self.observed: set[str] = set()  # filled by `samplers.condition`
        self._like = like or {}
        self._levels = [_Loop(key, (), given or {}, {}, trace_state(), [0])]

    @property
    def records(self) -> Records:
        """What has been recorded, in the order of the calls."""
        return self._levels[0].records

    def __call__(
        self,
        site: str,
        logits: Logits,
        /,
        *,
        family: Family | str | None = None,
        where: Mask | None = None,
    ) -> Sample:
        """See `gumbel.Sampler`."""
        level = self._levels[-1]
        check_trace(level.trace, site)
        check_new(site, [outer.records for outer in self._levels])
        if self._like and site not in self._like:
            raise ValueError(
                f"site {site!r} is sampled now, but not in the first pass of the objective, which "
                f"samples {', '.join(self._like)}: let every call sample the same sites"
            )
        found = self.families.at(site, family)
        logits = check_logits(site, logits, found)
        asked_for = logits
        if found.event_ndims:
            logits = whole(logits, -found.event_ndims)
        mask = checked_mask(site, where, logits, found)
        logits = apply_mask(logits, mask, found)
        position = self._next(level)
        key = None if level.key is None else jax.random.fold_in(level.key, position)
        given = divided_as(level.given.get(site), like=logits)
        asked = Site(site, logits, found, given, mask)
        z = self._draw(asked, key)  # type: ignore[arg-type]
        if jnp.shape(z) != logits.shape:
            raise ValueError(
                f"the draw of site {site!r} has shape {jnp.shape(z)}, but its logits have "
                f"{logits.shape}"
            )
        z = apply_mask(z, mask, found)
        level.records[site] = Record(logits, z, found, mask, position, level.path)
        return divided_as(z, like=asked_for)

    def scan(
        self,
        body: Callable[[Any, Any], tuple[Any, Any]],
        carry: Any,
        xs: Any = None,
        length: int | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
    ) -> tuple[Any, Any]:
        """See `gumbel.Sampler`."""
        level = self._levels[-1]
        check_trace(level.trace, None)
        position = self._next(level)
        key = None if level.key is None else jax.random.fold_in(level.key, position)
        path = (*level.path, position)
        given = {
            site: _steps_first(value, self._like[site].lead)
            for site, value in level.given.items()
            if self._like[site].loops[: len(path)] == path
        }
        found: dict[str, tuple[Family, tuple[int, ...], tuple[int, ...], int]] = {}

        def step(carry: Any, inputs: tuple[Any, Any, Any]) -> tuple[Any, Any]:
            index, x, here = inputs
            step_key = None if key is None else jax.random.fold_in(key, index)
            inner = _Loop(step_key, path, here, {}, trace_state(), [0])
            with self._entered(inner):
                carry, y = _pair(body(carry, x))
            arrays = {}
            for name, record in inner.records.items():
                arrays[name] = (record.logits, record.z, record.where)
                # Without the arrays, which may leave the loop's trace only as its outputs.
                lead = lead_of(record.logits, record.family, len(record.loops) - len(path))
                found[name] = (record.family, record.loops, record.first, lead)
            return carry, (y, arrays)

        num_steps = loop_length(xs, length)
        steps, start = jnp.arange(num_steps), num_steps - 1 if reverse else 0
        carry, (ys, stacked) = jax.lax.scan(
            step, carry, (steps, xs, given), reverse=reverse, unroll=unroll
        )
        for name, (of_site, loops, first, lead) in found.items():  # in the order of the calls
            logits, z, where = stacked[name]
            level.records[name] = Record(
                jnp.moveaxis(logits, 0, lead),
                jnp.moveaxis(z, 0, lead),
                of_site,
                None if where is None else jnp.moveaxis(where, 0, lead),
                position,
                loops,
                (start, *first),
            )
        return carry, ys

    @contextmanager
    def _entered(self, level: _Loop) -> Iterator[None]:
        self._levels.append(level)
        try:
            yield
        finally:
            self._levels.pop()

    def _next(self, level: _Loop) -> int:
        level.calls[0] += 1
        return level.calls[0] - 1


def check_trace(began: Any, site: str | None) -> None:
    """Raises ValueError inside a JAX transformation that began after the sampler was made.

    Raises:
      ValueError: the message names the site and the fix.
    """
    if trace_state() != began:
        what = "sample.scan is called" if site is None else f"site {site!r} is sampled"
        raise ValueError(
            f"{what} inside a JAX transformation that began after its sampler was made, where one "
            "draw would serve every iteration: write a loop as sample.scan(body, carry, xs), a "
            "vmap as a further axis of the logits, take the call out of jit, cond or while_loop, "
            "and apply checkpoint to parts that do not sample"
        )


def check_logits(site: str, logits: Logits, family: Family) -> Logits:
    """The logits of a site as an array, checked.

    Raises:
      TypeError: they are not floating-point.
      ValueError: they lack the axis of values of a categorical variable, or it is empty.
    """
    try:
        logits = floating(logits)
    except TypeError as error:
        raise TypeError(f"site {site!r}: {error}") from None
    if logits.ndim < family.event_ndims or (family.event_ndims and not logits.shape[-1]):
        raise ValueError(
            f"logits of site {site!r} have shape {logits.shape}: a {family.name} variable needs a "
            "last axis of at least one value"
        )
    return logits


def loop_length(xs: PyTree, length: int | None) -> int:
    """How many steps a loop over `xs` has.

    Raises:
      TypeError: `length` is not an integer.
      ValueError: neither `xs` nor `length` says so, or `length` is negative.
    """
    leaves = jax.tree.leaves(xs)
    if length is None and not leaves:
        raise ValueError("sample.scan needs xs, or length=, the number of steps")
    if not all(map(jnp.ndim, leaves)):
        raise ValueError("sample.scan needs xs with a first axis of steps, but one is a scalar")
    if length is not None:
        return check_integer(length, "the length of sample.scan", least=0)
    return int(jnp.shape(leaves[0])[0])


def check_new(site: str, sampled: Sequence[Container[str]]) -> None:
    """Raises ValueError if the pass has sampled this site, outside or inside the loops around it.

    Raises:
      TypeError: `site` is not a string.
      ValueError: the site was sampled already.
    """
    if not isinstance(site, str):
        raise TypeError(
            f"the name of a site must be a string, got {type(site).__name__}: call "
            "sample(site, logits), the name first"
        )
    if any(site in known for known in sampled):
        raise ValueError(
            f"objective sampled site {site!r} twice: give each call its own name, and each "
            "pass its own sampler"
        )


def checked_mask(site: str, where: Any, logits: Logits, family: Family) -> Mask | None:
    """The mask of a site's call.

    Raises:
      ValueError: it is not one of booleans that fits the variables.
    """
    if where is None:
        return None
    where = jnp.asarray(where)
    shape = logits.shape[: logits.ndim - family.event_ndims]
    fits = where.ndim == len(shape) and all(
        size in (1, whole) for size, whole in zip(where.shape, shape, strict=True)
    )
    if where.dtype != bool or not fits:
        raise ValueError(
            f"where= of site {site!r} is {where.dtype}{list(where.shape)}: give booleans of shape "
            f"{list(shape)}, one per variable, or with axes of size 1"
        )
    return where


def apply_mask(values: Sample, where: Mask | None, family: Family) -> Sample:
    """`values`, 0 where masked."""
    if where is None:
        return values
    return jnp.where(value_mask(where, family), values, 0)


def value_mask(where: Mask, family: Family) -> Mask:
    """A mask of variables as one that broadcasts against their values."""
    return where[..., None] if family.event_ndims else where


def lead_of(logits: Logits, family: Family, num_loops: int) -> int:
    """How many axes of a site's logits precede those of the loops around it."""
    return min(1, logits.ndim - family.event_ndims - num_loops)


def _steps_first(value: PyTree, lead: int) -> PyTree:
    """`[B, T, ...]` as `[T, B, ...]`, for the outermost loop of a site's layout."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, lead, 0), value)


def _pair(returned: Any) -> tuple[Any, Any]:
    """What the body of a loop returns, which must not be an array of two rows, for example."""
    if isinstance(returned, tuple | list) and len(returned) == 2:
        return returned[0], returned[1]
    what = jax.typeof(returned) if isinstance(returned, jax.Array) else type(returned).__name__
    raise TypeError(
        f"the body of sample.scan returned a {what}: return (carry, y), where y may be None"
    )
