"""`Estimator`, and the registry that makes one by name."""

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gumbel.arguments import check_key, suggestion
from gumbel.estimators.derivatives import first_derivative_only
from gumbel.estimators.options import Option, Range, options_of
from gumbel.expressions import evaluated
from gumbel.families import family as family_of
from gumbel.independence import require_independent, require_local
from gumbel.sites import Families, FamilyLike, as_families
from gumbel.smoothness import one_line, require_smooth, undifferentiable
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey

State: TypeAlias = PyTree
Temperature: TypeAlias = Float[Array, ""] | float | Mapping[str, Float[Array, ""] | float]


class Info(NamedTuple):
    """Diagnostics of one surrogate.

    Attributes:
      cost: the cost that the estimator computed, in nats: `[B]`, or `[]` if examples are coupled.
        It is the relaxed cost for `gumbel_softmax`, the multi-sample bound for `vimco`, the
        expectation for `marginalization`, and for the others a cost of discrete samples, or the
        mean of several, which is weighted for `unordered_set`.
      metrics: named scalars of the estimator, such as the scale of its learning signal.
      aux: `aux` of the objective, from the pass that computed `cost`, so with relaxed samples for
        `gumbel_softmax`. With several samples, it is that of the first one; with `marginalization`,
        that of an additional pass with a sample.
    """

    cost: Cost
    metrics: dict[str, Float[Array, ""]]
    aux: PyTree = None


class Init(Protocol):
    """`init(objective, params, batch, key) -> state`."""

    def __call__(
        self, objective: Objective, params: Params, batch: Batch, key: PRNGKey, /
    ) -> State:
        """The state to start from."""


class Surrogate(Protocol):
    """`surrogate(objective, params, batch, key, temperature, state) -> (scalar, (state, info))`."""

    def __call__(
        self,
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
        /,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        """The scalar to differentiate, then the next state and diagnostics."""


class Estimator(NamedTuple):
    """A gradient estimator: a pair of pure functions, like Optax's `init` and `update`.

    `jax.grad(surrogate, argnums=1, has_aux=True)` estimates the gradient of the expected cost,
    averaged over the batch. The temperature is a scalar, or a mapping from sites to scalars; where
    the estimator takes a single pass, also an array that broadcasts against the logits, with one
    temperature for each variable.

    The gradient in the temperature (argnums=4) is that of the cost of relaxed samples for
    `gumbel_softmax`; for straight-through estimators, it is the derivative of the cost at the
    discrete sample times that of the relaxed one. Do not choose a temperature by either (see
    `gumbel.adaptation`). For `rebar` and `relax`, it is the gradient of the squared estimate;
    following it lowers the variance. For estimators that do not read the temperature, it is 0.

    Attributes:
      init: makes the initial state, a pytree. It may run the objective as often as a step does.
        Outside of `jit`, it also checks what the estimator requires, independent examples or a cost
        with a derivative in the samples, for which it may run the objective some 100 times.
      surrogate: returns a scalar, the mean cost, whose gradient is the estimate; and the next state
        with diagnostics.

    Both raise TypeError for a key that is not one PRNG key, and ValueError for an objective that
    does not meet the estimator's requirements; `surrogate` also for the state of another estimator.
    """

    init: Init
    surrogate: Surrogate


# Makes an estimator for its sites; its keyword-only arguments are the estimator's options.
Factory: TypeAlias = Callable[..., Estimator]
Derivatives: TypeAlias = Literal["all", "relaxed", "first"]


class Spec(NamedTuple):
    """The registry's entry for an estimator.

    Attributes:
      name: the name in configs and tables.
      factory: `factory(family, **options) -> Estimator`.
      families: names of the families that it supports.
      unbiased: whether the estimate is unbiased with default options.
      relaxes: whether it reads the temperature.
      multi_sample: whether it minimizes a multi-sample bound with `num_samples` samples.
      enumerates: whether it takes a pass for each joint value of the sites.
      independent: whether it requires that examples with separate costs are independent; False if
        the gradient flows through the samples themselves.
      smooth: whether it requires a cost that is differentiable in the samples.
      slopes: whether it uses derivatives of the cost in the samples, and takes 0 where there is
        none.
      derivatives: "all" if derivatives of any order estimate those of the expected cost, "relaxed"
        if they are those of the relaxed cost, "first" if a second derivative raises an error.
      passes: forward + backward passes through the objective in one surrogate, with `L` layers
        (sites, or outermost loops), `m` samples, `N` joint values, and `V` changes of one variable
        to another value.
      passes_if: the passes with an option at a value that changes them, by `(option, value)`.
      biased_if: values of options, as `(option, value)`, that give up unbiasedness.
      options: the keyword options of the factory, by name.
      reads: what it makes of the batch by default, such as the inputs of a baseline; it raises a
        ValueError for a batch that it cannot read.
      aliases: other names that `make` and `spec` accept.
    """

    name: str
    factory: Factory
    families: tuple[str, ...]
    unbiased: bool
    relaxes: bool
    multi_sample: bool
    enumerates: bool
    independent: bool
    smooth: bool
    slopes: bool
    derivatives: Derivatives
    passes: str
    passes_if: Mapping[tuple[str, Any], str]
    biased_if: frozenset[tuple[str, Any]]
    options: dict[str, Option]
    reads: Callable[[Batch], Any] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def vectorizes(self) -> bool:
        """Whether it runs the objective under `jax.vmap`, for several samples at once."""
        return any(letter in self.passes for letter in "mNV")

    def unbiased_with(self, options: Mapping[str, Any]) -> bool:
        """Whether the estimate is unbiased with these options."""
        return self.unbiased and self.biased_if.isdisjoint(options.items())


_REGISTRY: dict[str, Spec] = {}
_LETTERS = dict.fromkeys("LmNV", 1)  # of `Spec.passes`
_INIT = 0x1417  # no number that a surrogate folds into its key


def register(
    name: str,
    *,
    unbiased: bool,
    relaxes: bool = False,
    families: tuple[str, ...] = ("bernoulli", "categorical"),
    multi_sample: bool = False,
    enumerates: bool = False,
    independent: bool = True,
    smooth: bool = False,
    slopes: bool = False,
    derivatives: Derivatives = "first",
    passes: str = "1 + 1",
    passes_if: Mapping[tuple[str, Any], str] | None = None,
    biased_if: Iterable[tuple[str, Any]] = (),
    ranges: Mapping[str, Range] | None = None,
    kinds: Mapping[str, type] | None = None,
    reads: Callable[[Batch], Any] | None = None,
    aliases: tuple[str, ...] = (),
) -> Callable[[Factory], Factory]:
    """Registers a factory under a name, for `make` and the configs.

    The decorated factory checks its options and families; its surrogates refuse a state that is
    not theirs and, unless `derivatives` says that they have one, a second derivative. A factory
    that is defined again, in a notebook's cell or a reloaded module, replaces the earlier one.

    Args:
      name: the name for `make`.
      unbiased, relaxes, families, multi_sample, enumerates: see `Spec`.
      independent, smooth, slopes, derivatives, passes, passes_if, biased_if: see `Spec`.
      reads, aliases: see `Spec`.
      ranges: allowed values, by option.
      kinds: types of options whose default is None, to make them config keys.

    Raises:
      TypeError: `name` is not a string, or `families` is one.
      ValueError: another factory has the name or an alias; `passes` cannot be read; `derivatives`
        or a family is unknown; `ranges`, `kinds`, `passes_if` or `biased_if` name no option; a
        parameter of the factory besides the family can be passed by position; or it enumerates and
        has no option `max_values`.

    Example:
      >>> from gumbel import estimators
      >>> @estimators.register("my_st", unbiased=False)
      ... def my_st(family, *, scale: float = 1.0):
      ...     return estimators.st(family)
      >>> sorted(estimators.spec("my_st").options)
      ['scale']
      >>> estimators.unregister("my_st")
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an estimator must be a string, got {name!r}: pass it first")
    if isinstance(families, str):
        raise TypeError(f"families of estimator {name!r}: give a tuple, such as ({families!r},)")
    for one in families:
        family_of(one)
    if derivatives not in (kinds_of := get_args(Derivatives)):
        near = suggestion(derivatives, list(map(repr, kinds_of)))
        raise ValueError(f"derivatives={derivatives!r} of estimator {name!r}: {near}")

    def add(factory: Factory) -> Factory:
        if taken := [each for each in (name, *aliases) if _is_taken(each, name, factory)]:
            raise ValueError(f"estimator {taken[0]!r} is registered already: choose another name")
        biased = frozenset(biased_if)
        known = options_of(factory, ranges or {}, kinds or {})
        declared = {"ranges": ranges or {}, "kinds": kinds or {}}
        declared |= {"passes_if": dict(passes_if or {}), "biased_if": dict(biased)}
        _require_known(name, known, declared)
        for text in (passes, *(passes_if or {}).values()):
            try:
                evaluated(text, _LETTERS)
            except ValueError as error:
                raise ValueError(
                    f"passes={text!r} of estimator {name!r}: write sums and products of numbers "
                    "and L, m, N and V, such as '2 * m + 1'"
                ) from error
        if enumerates and "max_values" not in known:
            raise ValueError(f"estimator {name!r} enumerates: give it an option max_values")
        made = Spec(
            name=name,
            factory=factory,
            families=families,
            unbiased=unbiased,
            relaxes=relaxes,
            multi_sample=multi_sample,
            enumerates=enumerates,
            independent=independent,
            smooth=smooth,
            slopes=slopes,
            derivatives=derivatives,
            passes=passes,
            passes_if=passes_if or {},
            biased_if=biased,
            options=known,
            reads=reads,
            aliases=aliases,
        )
        _REGISTRY[name] = made._replace(factory=_checked(made))
        return _REGISTRY[name].factory

    return add


def _require_known(
    name: str, known: Iterable[str], declared: Mapping[str, Mapping[Any, Any]]
) -> None:
    """Raises ValueError if what is declared of an estimator's options names another one."""
    for argument, of_options in declared.items():
        for key in of_options:
            option = key[0] if isinstance(key, tuple) else key
            if option not in known:
                near = suggestion(option, known) or "it has no keyword-only parameters"
                raise ValueError(f"{argument} of estimator {name!r} names {option!r}: {near}")
    for option, limits in declared["ranges"].items():
        if not isinstance(limits, Range):
            raise ValueError(f"ranges of estimator {name!r}: {option} is no Range, got {limits!r}")


def _is_taken(wanted: str, name: str, factory: Factory) -> bool:
    """Whether an estimator other than `name` as this very factory has the wanted name or alias."""
    found = _find(wanted)
    if found is None:
        return False
    before, after = (
        (each.__module__, getattr(each, "__qualname__", None)) for each in (found.factory, factory)
    )
    return found.name != name or before != after or None in after  # a partial has no name


def _checked(spec: Spec) -> Factory:
    """The factory of an entry, with the checks that all estimators share."""
    name, known = spec.name, spec.options

    @functools.wraps(spec.factory)
    def checked(family: FamilyLike = None, **options: Any) -> Estimator:
        for option, value in options.items():
            if option == "temperature" and option not in known:
                raise ValueError(
                    f"estimator {name!r} has no option 'temperature': pass it to each call of the "
                    "surrogate, so that a schedule can change it"
                )
            if option not in known:
                near = suggestion(option, known) or "it takes no options"
                raise ValueError(f"estimator {name!r} has no option {option!r}: {near}")
            known[option].check(name, value)
        options = {option: known[option].plain(value) for option, value in options.items()}
        restricted = as_families(family).restricted(spec.families, name)
        made: Any = spec.factory(restricted, **options)
        if not (isinstance(made, tuple) and len(made) == 2 and all(map(callable, made))):
            raise TypeError(
                f"estimator {name!r}: its factory returns a {type(made).__name__}: return "
                "estimators.Estimator(init, surrogate)"
            )
        init, surrogate = made
        return Estimator(
            _checked_init(spec, init, restricted),
            _checked_surrogate(spec, init, surrogate, restricted),
        )

    return checked


def _checked_init(spec: Spec, init: Init, family: Families) -> Init:
    """Wraps `init` with checks of the objective.

    `init` gets its own key: with the key of the first surrogate, the state would depend on that
    surrogate's samples and bias it.
    """

    @functools.wraps(init)
    def checked(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> State:
        check_key(key, order="(objective, params, batch, key)")
        arguments = (objective, params, batch, key, family)
        if spec.independent:
            require_independent(*arguments)
        if spec.smooth:
            require_smooth(*arguments, spec.name, everywhere=spec.unbiased)
        try:
            state = init(objective, params, batch, jax.random.fold_in(key, _INIT))
        except (NotImplementedError, ValueError) as error:
            if not spec.slopes or (found := undifferentiable(*arguments)) is None:
                raise
            site, why = found
            raise ValueError(
                f"{spec.name!r} takes the derivative of the cost in the samples of site {site!r}, "
                f"but JAX cannot differentiate what they pass through: {one_line(why)}; correct "
                "this, or use a score-function estimator such as 'rloo'"
            ) from error
        for leaf in jax.tree.leaves(state):
            if not isinstance(leaf, jax.Array | np.ndarray):
                raise TypeError(
                    f"estimator {spec.name!r}: its init returns a state with a "
                    f"{type(leaf).__name__}, {leaf!r}: give arrays, such as jnp.asarray({leaf!r})"
                )
        return state

    return checked


def _checked_surrogate(spec: Spec, init: Init, surrogate: Surrogate, family: Families) -> Surrogate:
    """Wraps `surrogate` with checks of the state, and of the order of derivatives."""
    first_only = spec.derivatives == "first"

    @functools.wraps(surrogate)
    def checked(
        objective: Objective,
        params: Params,
        batch: Batch,
        key: PRNGKey,
        temperature: Temperature,
        state: State,
    ) -> tuple[Float[Array, ""], tuple[State, Info]]:
        if spec.independent:
            require_local(objective, params, batch, key, family)
        try:
            value, aux = surrogate(objective, params, batch, key, temperature, state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if _is_first_state(state, functools.partial(init, objective), params, batch, key):
                raise
            raise ValueError(
                f"estimator {spec.name!r} cannot use a {type(state).__name__} as its state: start "
                "from estimator.init(objective, params, batch, key), then pass the state that the "
                "surrogate returns"
            ) from error
        _check_returned(spec.name, value, aux, state)
        return first_derivative_only(value, spec.name) if first_only else value, aux

    return checked


def _check_returned(name: str, value: Any, aux: Any, state: State) -> None:
    """Raises TypeError unless a surrogate returned `(scalar, (state, info))`, as it should."""
    if jnp.shape(value) != ():
        raise TypeError(
            f"estimator {name!r}: its surrogate returns a value of shape {jnp.shape(value)}: give "
            "its mean over the batch, in (scalar, (state, info))"
        )
    if not (isinstance(aux, tuple) and len(aux) == 2 and isinstance(aux[1], Info)):
        kinds = ", ".join(type(part).__name__ for part in aux) if isinstance(aux, tuple) else aux
        raise TypeError(
            f"estimator {name!r}: its surrogate returns ({kinds}) beside its value: give "
            "(scalar, (state, info)), info an estimators.Info"
        )
    found, given = (
        (jax.tree.structure(each), [jnp.shape(leaf) for leaf in jax.tree.leaves(each)])
        for each in (aux[0], state)
    )
    if found != given:
        raise TypeError(
            f"estimator {name!r}: its surrogate returns a state of shapes {_shapes(aux[0])} where "
            f"it was given {_shapes(state)}: return one of the same structure and shapes"
        )


def _shapes(state: State) -> str:
    return textwrap.shorten(str(jax.tree.map(jnp.shape, state)), 200, placeholder=" ...")


def _is_first_state(state: State, init: Callable[..., State], *arguments: Any) -> bool:
    """Whether a state has the structure and shapes that `init` gives; True if `init` fails."""
    try:
        shapes = jax.eval_shape(init, *arguments)
    except Exception:  # which the objective raises, whatever the state
        return True
    sizes = [list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (shapes, state)]
    forms: list[Any] = [jax.tree.structure(tree) for tree in (shapes, state)]
    empty = sizes == [[], []]  # None is as good as ()
    return empty or (bool(forms[0] == forms[1]) and sizes[0] == sizes[1])


def no_state(objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> State:
    """The `init` of an estimator without a state."""
    return ()


def unregister(name: str) -> None:
    """Removes an estimator, by its name or an alias, from the registry.

    Raises:
      ValueError: there is no such estimator; the message suggests similar names.
    """
    del _REGISTRY[spec(name).name]


def names() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(_REGISTRY))


def spec(name: str) -> Spec:
    """The registry's entry for an estimator.

    Raises:
      ValueError: there is no such estimator; the message suggests similar names.
    """
    if (found := _find(name)) is None:
        raise ValueError(f"unknown estimator {name!r}: {suggestion(name, names())}")
    return found


def _find(name: str) -> Spec | None:
    """The entry of that name or alias."""
    entries = _REGISTRY.values()
    return next((each for each in entries if name in (each.name, *each.aliases)), None)


def make(name: str, family: FamilyLike = None, **options: Any) -> Estimator:
    """Makes an estimator by name.

    Args:
      name: one of `names()`, or an alias: `reinforce` and `score_function` are `sf`.
      family: `gumbel.BERNOULLI` or `gumbel.CATEGORICAL`, or its name, for all of the objective's
        sites; a mapping from sites to families; or None, if every call of `sample` names one.
      **options: the keyword options of the estimator's factory.

    Raises:
      ValueError: an unknown name, family or option, a family that the estimator does not support,
        or an option out of range.

    Example:
      >>> from gumbel import CATEGORICAL, estimators
      >>> estimator = estimators.make("vimco", CATEGORICAL, num_samples=5)
      >>> mixed = estimators.make("muprop", {"edge": "categorical", "gate": "bernoulli"})
    """
    return spec(name).factory(family, **options)
