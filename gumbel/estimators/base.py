"""What an estimator is, and the registry that selects one by name."""

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from jaxtyping import Array, Float, PyTree

from gumbel.estimators.options import Option, Range, options_of
from gumbel.sites import FamilyLike, families
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey

State: TypeAlias = PyTree
Temperature: TypeAlias = Float[Array, ""] | float | Mapping[str, Float[Array, ""] | float]


class Info(NamedTuple):
    """Diagnostics of one surrogate.

    Attributes:
      cost: `[B]`, or `[]` of coupled examples, in nats: what the estimator's own pass measured
        (relaxed for a relaxing estimator, the multi-sample bound for `vimco`, the expectation for
        `marginalization`).
      metrics: named scalars of the estimator, such as the scale of its learning signal.
      aux: what the objective returned beside its cost in the pass that measured `cost`: with the
        relaxed samples of a relaxing estimator, with discrete samples for the others. `vimco`
        gives that of its first sample, `marginalization` that of one further pass with a draw.
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
        """The scalar to differentiate, the next state, and diagnostics."""


class Estimator(NamedTuple):
    """A gradient estimator: a pair of pure functions, as optax pairs `init` and `update`.

    `jax.grad(surrogate, argnums=1, has_aux=True)` is the estimate of the gradient of the expected
    cost, averaged over the batch. Its temperature is a scalar, or a mapping from sites to scalars.
    Its gradient in it (argnums=4) is that of the relaxed cost, which cannot choose a temperature
    (see `gumbel.adaptation`); it is zero for estimators that do not relax.

    Attributes:
      init: makes the state, an ordinary pytree. It may run the objective once or twice. Called
        outside of `jit`, the estimators that rely on independent examples, or on a cost with a
        derivative in the samples, check that they are given that.
      surrogate: a scalar, the mean cost, whose gradient is the estimate; and the next state with
        diagnostics.
    """

    init: Init
    surrogate: Surrogate


# Makes an estimator for its sites; its keyword-only arguments are the estimator's options.
Factory: TypeAlias = Callable[..., Estimator]
Derivatives: TypeAlias = Literal["all", "relaxed", "first"]


class Spec(NamedTuple):
    """What the registry knows of an estimator.

    Attributes:
      name: the name in configs and tables.
      factory: `factory(family, **options) -> Estimator`.
      families: the names of the families that it serves.
      unbiased: whether the estimate's expectation, at the default options, is the gradient.
      relaxes: whether it draws relaxed samples, and so reads the temperature.
      multi_sample: whether it descends a multi-sample bound, of `num_samples` samples.
      enumerates: whether it takes a pass for each joint value of the sites.
      independent: whether a cost of one per example has to mean that examples are independent;
        False where the gradient flows through the samples themselves.
      smooth: whether it relies on a cost that is differentiable in the samples.
      derivatives: which are right: those of any order estimate the derivatives of the expected
        cost ("all"), or are those of the relaxed cost ("relaxed"), or only the first is defined
        ("first") and a second one is refused.
      passes: forward + backward passes through the objective in one surrogate, with `L` layers
        (sites, or outermost loops), `m` samples, `N` joint values and `V` changes of a variable to
        another of its values.
      options: the keyword options of the factory, by name.
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
    derivatives: Derivatives
    passes: str
    options: dict[str, Option]


_REGISTRY: dict[str, Spec] = {}


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
    derivatives: Derivatives = "first",
    passes: str = "1 + 1",
    ranges: Mapping[str, Range] | None = None,
    kinds: Mapping[str, type] | None = None,
) -> Callable[[Factory], Factory]:
    """Registers a factory under a name, so that `make` and the configs know it.

    The factory that is registered, and returned, checks its options and families.

    Args:
      name: for `make`.
      unbiased, relaxes, families, multi_sample, enumerates: see `Spec`.
      independent, smooth, derivatives, passes: see `Spec`.
      ranges: of the options that have one.
      kinds: of options whose default is None, if they are to be config keys.

    Example:
      >>> from gumbel import estimators
      >>> @estimators.register("my_st", unbiased=False)
      ... def my_st(family, *, scale: float = 1.0):
      ...     return estimators.st(family)
      >>> sorted(estimators.spec("my_st").options)
      ['scale']
      >>> estimators.unregister("my_st")
    """

    def add(factory: Factory) -> Factory:
        if name in _REGISTRY:
            raise ValueError(f"estimator {name!r} is registered already: choose another name")
        checked = _checked(name, factory, families, options_of(factory, ranges or {}, kinds or {}))
        _REGISTRY[name] = Spec(
            name,
            checked,
            families,
            unbiased,
            relaxes,
            multi_sample,
            enumerates,
            independent,
            smooth,
            derivatives,
            passes,
            options_of(factory, ranges or {}, kinds or {}),
        )
        return checked

    return add


def _checked(
    name: str, factory: Factory, served: tuple[str, ...], known: dict[str, Option]
) -> Factory:
    """The factory, which refuses options out of range and families that it cannot serve."""

    @functools.wraps(factory)
    def checked(family: FamilyLike = None, **options: Any) -> Estimator:
        for option, value in options.items():
            if option not in known:
                raise ValueError(
                    f"estimator {name!r} has no option {option!r}{_nearest(option, known)}"
                )
            known[option].check(name, value)
        return factory(families(family).restricted(served, name), **options)

    return checked


def unregister(name: str) -> None:
    """Takes an estimator out of the registry."""
    del _REGISTRY[name]


def names() -> tuple[str, ...]:
    """The registered names, in the order of registration."""
    return tuple(_REGISTRY)


def spec(name: str) -> Spec:
    """What is known of an estimator.

    Raises:
      ValueError: no such estimator; the message names the nearest ones.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown estimator {name!r}{_nearest(name, names())}")
    return _REGISTRY[name]


def make(name: str, family: FamilyLike = None, **options: Any) -> Estimator:
    """Makes an estimator by name.

    Args:
      name: one of `names()`.
      family: `gumbel.BERNOULLI` or `gumbel.CATEGORICAL`, or its name, for all of the objective's
        sites; a mapping from sites to them; or None, if each call of `sample` names its own.
      **options: the keyword options of the estimator's factory.

    Raises:
      ValueError: unknown name, family or option, a family that the estimator cannot serve, or an
        option out of range.

    Example:
      >>> from gumbel import CATEGORICAL, estimators
      >>> estimator = estimators.make("vimco", CATEGORICAL, num_samples=5)
      >>> mixed = estimators.make("muprop", {"edge": "categorical", "gate": "bernoulli"})
    """
    return spec(name).factory(family, **options)


def _nearest(word: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = difflib.get_close_matches(word, valid, n=3, cutoff=0.4) or valid
    return f": did you mean {' or '.join(near)}?" if near else ": it has none"
