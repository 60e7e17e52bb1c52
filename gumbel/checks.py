"""`check_objective`: checks a new model before training."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from gumbel import estimators
from gumbel.estimators import Spec
from gumbel.estimators.multi import independent
from gumbel.independence import leaks
from gumbel.layouts import count_values, layout, readable
from gumbel.lines import hidden_changes
from gumbel.passes import passes
from gumbel.probes import NUM_STARTS, Probe, Targets, changed, draw
from gumbel.samplers import Pass, replayed, trace
from gumbel.sites import FamilyLike, Site
from gumbel.smoothness import dependence, derivatives, one_line
from gumbel.tracing import gathered, is_concrete, jit_with
from gumbel.types import Batch, Objective, Params, PRNGKey, Sample


class SiteReport(NamedTuple):
    """What `check_objective` found at one site.

    Attributes:
      name: name of the site.
      family: name of its family.
      shape: shape of its logits; the axes of loops follow the batch axis.
      loops: number of loops around the site.
      num_values: number of joint values that one cost depends on.
      used: whether the cost depends on the samples, directly or by way of other sites.
      smooth: whether a chain of derivatives leads from the samples to the cost, as a gradient
        through the sample requires.
      trained: whether the logits depend on the parameters, directly or by way of samples.
      leaks: whether one example's samples change another example's cost.
      breaks: whether the cost, or another site's logits or mask, changes with the samples without
        a derivative.
      jumps: the same for relaxed samples, between 0 and 1.
      differentiable: whether JAX can differentiate in the samples at all, even if the result is 0.
      hidden: whether a part of the cost, or of logits on which it depends, changes with relaxed
        samples without a derivative, though another part has one.
      error: what JAX says where it cannot differentiate, in one line; else empty.
    """

    name: str
    family: str
    shape: tuple[int, ...]
    loops: int
    num_values: int
    used: bool
    smooth: bool
    trained: bool
    leaks: bool
    breaks: bool
    jumps: bool
    differentiable: bool
    hidden: bool
    error: str

    def __repr__(self) -> str:  # Python refuses to print integers of over 4300 digits
        values = self._asdict() | {"num_values": readable(self.num_values)}
        return f"SiteReport({', '.join(f'{name}={value!r}' for name, value in values.items())})"


class EstimatorReport(NamedTuple):
    """Whether an estimator applies to the objective.

    Attributes:
      name: name of the estimator.
      passes: forward + backward passes through the objective, with default options.
      reason: why it does not apply; empty if it does.
    """

    name: str
    passes: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `check_objective`; `print` shows it as text.

    Attributes:
      sites: reports on the sites, in the order of the calls.
      batch_size: number of costs, one per example; None if the examples are coupled.
      finite: whether the cost is finite.
      finite_if_rare: whether it is also finite at samples that are rare under the model.
      finite_if_relaxed: whether, at samples between 0 and 1, it is finite and no variable has all
        its values ruled out by logits of `-inf`.
      deterministic: whether the same key gives the same cost.
      has_aux: whether the objective returns `(cost, aux)`.
      vectorizes: whether the objective runs under `jax.vmap`, as estimators of several samples
        require.
      estimators: reports on all registered estimators.
      problems: one sentence for each problem.
      notes: one sentence for each limitation that is not an error, such as a cost without a
        derivative in the samples, which rules out some of the estimators.
    """

    sites: tuple[SiteReport, ...]
    batch_size: int | None
    finite: bool
    finite_if_rare: bool
    finite_if_relaxed: bool
    deterministic: bool
    has_aux: bool
    vectorizes: bool
    estimators: tuple[EstimatorReport, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def applicable(self) -> tuple[str, ...]:
        """The names of the estimators that apply to the objective."""
        return tuple(report.name for report in self.estimators if not report.reason)

    def __str__(self) -> str:
        cost = (
            "one for the whole batch, whose examples are coupled"
            if self.batch_size is None
            else f"one for each of {self.batch_size} examples"
        )
        lines = [f"cost: {cost}{', with aux' if self.has_aux else ''}", "sites:"]
        for site in self.sites:
            loops = f", in {site.loops} loop{'s' * (site.loops > 1)}" if site.loops else ""
            lines.append(
                f"  {site.name}: {site.family} {list(site.shape)}{loops}, "
                f"{readable(site.num_values)} joint values"
            )
        width = max(len(report.name) for report in self.estimators)
        lines.append("estimators (forward + backward passes):")
        for report in self.estimators:
            said = f"no: {report.reason}" if report.reason else report.passes
            lines.append(f"  {report.name:{width}}  {said}")
        lines += ["problems:", *(f"  {problem}" for problem in self.problems or ("none",))]
        if self.notes:
            lines += ["notes:", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)


def check_objective(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike = None
) -> Report:
    """Checks a new model: its sites, its cost, its gradients, and the estimators that apply.

    It runs the objective, compiled, some 150 times, at samples of the model and at others that are
    rarer, and compares values. Call it outside of `jit`.

    Args:
      objective, params, batch: see `gumbel.Objective`; a small batch is enough.
      key: PRNG key of the samples.
      family: family of the sites: one for all, a mapping by site, or None if every call names it.

    Returns:
      A report, to print or to test (`report.ok`).

    Raises:
      TypeError, ValueError: the objective cannot be run, or an argument is traced.

    Example:
      >>> import jax, jax.numpy as jnp, gumbel
      >>> def objective(params, batch, key, sample):
      ...     z = sample("switch", params["logits"] + batch)
      ...     return jnp.mean(z, axis=-1)
      >>> params, batch = {"logits": jnp.zeros((1, 3))}, jnp.zeros((4, 3))
      >>> key = jax.random.key(0)
      >>> report = gumbel.check_objective(objective, params, batch, key, gumbel.BERNOULLI)
      >>> report.ok, report.sites[0].num_values, "muprop" in report.applicable()
      (True, 8, True)
    """
    params, batch = gathered((params, batch))
    arguments = (objective, params, batch, key, family)
    plan = layout(*arguments)
    probe = Probe(*arguments) if is_concrete(params, batch, key) else None
    if probe is None or not probe.concrete:
        raise ValueError("check_objective compares values: call it outside of jit, vmap and grad")
    _, again = draw(*arguments)
    tried = {site: derivatives(*arguments, plan.records, site) for site in plan.records}
    slopes = {site: found.targets for site, found in tried.items()}
    targets = probe.targets(plan.records)
    found = dependence(targets, slopes)
    relaxed = dependence(probe.targets(plan.records, relaxed=True), slopes)
    # What jumps as a whole needs no closer look.
    whole = {site: slopes[site] for site in slopes if site not in found.breaks | relaxed.breaks}
    hidden = hidden_changes(*arguments, probe, whole)
    leaking, trained = leaks(probe), _fed(_trained(*arguments, probe), targets)
    not_vectorized = why_not_vectorized(*arguments)
    sites = tuple(
        SiteReport(
            name=name,
            family=record.family.name,
            shape=tuple(record.logits.shape),
            loops=len(record.loops),
            num_values=count_values(record, coupled=plan.coupled),
            used=name in found.used,
            smooth=name in found.smooth,
            trained=name in trained,
            leaks=name in leaking,
            breaks=name in found.breaks,
            jumps=name in relaxed.breaks,
            differentiable=tried[name].error is None,
            hidden=name in hidden,
            error=tried[name].message,
        )
        for name, record in plan.records.items()
    )
    report = Report(
        sites=sites,
        batch_size=None if plan.coupled else plan.cost.shape[0],
        finite=bool(np.isfinite(probe.drawn.cost).all()),
        finite_if_rare=all(probe.finite(probe.start(number)) for number in range(NUM_STARTS)),
        finite_if_relaxed=probe.finite_if_relaxed(),
        deterministic=not _differ(probe.outputs, again),
        has_aux=plan.aux is not None,
        vectorizes=not not_vectorized,
        estimators=tuple(
            _estimator(estimators.spec(name), sites, plan, batch, not_vectorized)
            for name in estimators.names()
        ),
        problems=(),
        notes=(),
    )
    return dataclasses.replace(
        report, problems=tuple(_problems(report)), notes=tuple(_notes(report))
    )


@jax.jit
def _differ(before: list[Array], after: list[Array]) -> Bool[Array, ""]:
    return jnp.any(jnp.stack([changed(*pair) for pair in zip(before, after, strict=True)]))


def _trained(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    probe: Probe,
) -> set[str]:
    """The sites whose logits have a derivative in the parameters, at some start of the probe."""
    records = probe.drawn.records

    def reached(
        batch: Batch, params: Params, key: PRNGKey, values: dict[str, Sample]
    ) -> dict[str, Any]:
        def logits(params: Params) -> dict[str, Any]:
            again = replayed(objective, params, batch, key, family, records, values)
            return {site: record.logits for site, record in again.records.items()}

        found_logits, pullback = jax.vjp(logits, params)
        found = {}
        for index, site in enumerate(found_logits):
            cotangents = {name: jnp.zeros_like(value) for name, value in found_logits.items()}
            noise = jax.random.normal(jax.random.key(index), found_logits[site].shape)
            cotangents[site] = noise.astype(found_logits[site].dtype)
            leaves = jax.tree.leaves(pullback(cotangents))
            floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
            found[site] = jnp.any(jnp.array([jnp.any(leaf != 0) for leaf in floats], bool))
        return found

    run, trained = jit_with(batch, reached), set[str]()
    for number in range(NUM_STARTS):
        found = run(params, key, probe.start(number).values)
        trained |= {site for site in records if found[site]}
        if len(trained) == len(records):
            break
    return trained


def _fed(trained: set[str], targets: Mapping[str, Targets]) -> set[str]:
    """The sites that are trained, and those whose logits depend on the samples of such a site."""
    found = set(trained)
    while more := {site for site in targets for fed in found if site in targets[fed]} - found:
        found |= more
    return found


def why_not_vectorized(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> str:
    """Why the objective, which is only traced, does not run under `jax.vmap`; empty if it does."""

    def cost(path: Array) -> Array:
        def draw(site: Site, key: PRNGKey) -> Sample:
            return independent(site, key, path)

        return trace(objective, params, batch, key, family, draw).cost

    why = "JAX cannot vmap the objective, which it runs for several samples at once: "
    try:
        jax.eval_shape(jax.vmap(cost), jnp.arange(2))
    except NotImplementedError:  # from JAX, for a callback without a vmap_method
        return why + "give jax.pure_callback vmap_method='sequential'"
    except ValueError as error:  # for an ordered io_callback
        return why + one_line(error)
    return ""


def _estimator(
    spec: Spec, sites: tuple[SiteReport, ...], plan: Pass, batch: Batch, not_vectorized: str
) -> EstimatorReport:
    why = reason(spec, sites) or _unread(spec, batch)
    if not why and spec.vectorizes:
        why = not_vectorized
    return EstimatorReport(spec.name, passes(spec, plan), why)


def _unread(spec: Spec, batch: Batch) -> str:
    """Why an estimator cannot read the batch; empty if it can, or need not."""
    reads = spec.reads
    if reads is None:
        return ""
    try:
        jax.eval_shape(lambda: reads(batch))
    except ValueError as error:
        return str(error)
    return ""


def reason(
    spec: Spec, sites: tuple[SiteReport, ...], options: Mapping[str, Any] | None = None
) -> str:
    """Why an estimator, with these options, does not apply to the sites; empty if it does."""
    found = next(filter(None, (_unfit(spec, site) for site in sites)), "")
    if found or not spec.enumerates:
        return found
    num_values = math.prod(site.num_values for site in sites)
    limit = (options or {}).get("max_values", spec.options["max_values"].default)
    if num_values <= limit:
        return ""
    return f"{readable(num_values)} joint values, over max_values={limit}"


def _unfit(spec: Spec, site: SiteReport) -> str:
    """Why an estimator does not apply to a site; empty if it does."""
    if site.family not in spec.families:
        return f"site {site.name!r} is {site.family}; it supports {', '.join(spec.families)}"
    if spec.independent and site.leaks:
        return f"examples depend on each other at site {site.name!r}"
    broken = spec.smooth and site.breaks and not site.smooth
    if site.error and (broken or spec.slopes):
        return f"JAX cannot differentiate the cost in the samples of site {site.name!r}"
    if broken:
        return f"the cost has no derivative in the samples of site {site.name!r}"
    if spec.smooth and spec.unbiased and (site.jumps or site.hidden):
        what = "something, such as a mask," if site.jumps else "a part of the cost"
        return f"{what} has no derivative in the samples of site {site.name!r}"
    return ""


def _notes(report: Report) -> list[str]:
    notes = [note for site in report.sites if (note := _note(site))]
    if not report.finite_if_relaxed and all(site.smooth for site in report.sites if site.used):
        notes.append(
            "the cost or a site's logits are not finite at relaxed samples: estimators that "
            "evaluate the objective there, such as 'gumbel_softmax', return NaN; a logit of -inf "
            "may depend on parameters and batch, but not on samples"
        )
    return notes


def _note(site: SiteReport) -> str:
    """A limitation at a site that is not an error; empty if there is none."""
    if site.used and site.breaks and not site.smooth and site.error:
        return (
            f"JAX cannot differentiate the cost in the samples of site {site.name!r}: "
            f"{site.error}; estimators whose gradient flows through the sample cannot train it"
        )
    if site.used and site.breaks and not site.smooth:
        return (
            f"the cost has no derivative in the samples of site {site.name!r}: estimators whose "
            "gradient flows through the sample cannot train it"
        )
    if site.hidden:
        return (
            f"a part of the cost has no derivative in the samples of site {site.name!r}, behind a "
            "comparison, an argmax or a stop_gradient: estimators whose gradient flows through the "
            "sample miss it"
        )
    return ""


def _problems(report: Report) -> list[str]:
    problems = []
    if not report.finite:
        problems.append("the cost is not finite")
    elif not report.finite_if_rare:
        problems.append("the cost is not finite at samples that are rare under the model")
    if not report.deterministic:
        problems.append(
            "one key gives two costs: take all randomness from the key that the objective is given"
        )
    for site in report.sites:
        if site.num_values == 1:  # of one value each, or in a loop without a step
            continue
        at = f"site {site.name!r}"
        if site.leaks:
            problems.append(
                f"one example's samples at {at} change another's cost: return a scalar cost, or "
                "put the batch axis first in the logits"
            )
        if not site.used:
            problems.append(
                f"the cost does not depend on the samples of {at}, or by less than its rounding"
            )
        if not site.trained:
            problems.append(f"the logits of {at} do not depend on the parameters")
    return problems
