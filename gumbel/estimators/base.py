"""What an estimator is, and the registry that selects one by name."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from jaxtyping import Array, Float, PyTree

from gumbel.families import Family
from gumbel.families import family as family_called
from gumbel.types import Batch, Cost, Objective, Params, PRNGKey

State: TypeAlias = PyTree
Temperature: TypeAlias = Float[Array, ""] | float


class Info(NamedTuple):
    """Diagnostics of one surrogate.

    Attributes:
      cost: `[B]`, in nats: what the estimator's own pass measured (relaxed for a relaxing
        estimator, the multi-sample bound for `vimco`).
      metrics: named scalars of the estimator, such as the scale of its learning signal.
    """

    cost: Cost
    metrics: dict[str, Float[Array, ""]]


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
    cost, averaged over the batch. The gradient in `temperature` (argnums=4) is what a learned
    temperature follows; it is zero for estimators that do not relax.

    Attributes:
      init: makes the state, an ordinary pytree. It may run the objective once.
      surrogate: a scalar whose gradient is the estimate, and the next state with diagnostics. Its
        value is the mean cost only for some estimators: read `info.cost` instead.
    """

    init: Init
    surrogate: Surrogate


# Makes an estimator for a family; its keyword-only arguments are the estimator's options.
Factory: TypeAlias = Callable[..., Estimator]


class Spec(NamedTuple):
    """What the registry knows of an estimator.

    Attributes:
      name: the name in configs and tables.
      factory: `factory(family, **options) -> Estimator`.
      families: the names of the families that it serves.
      unbiased: whether the estimate's expectation, at the default options, is the gradient.
      relaxes: whether it draws relaxed samples, and so reads the temperature.
      multi_sample: whether it trains a multi-sample bound; `num_samples` is then an option.
      enumerates: whether it takes a pass for each joint value of the variables.
      straight_through: whether the forward pass of training is at discrete samples although the
        gradient passes through them.
    """

    name: str
    factory: Factory
    families: tuple[str, ...]
    unbiased: bool
    relaxes: bool = False
    multi_sample: bool = False
    enumerates: bool = False
    straight_through: bool = False

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword options of the factory, by name."""
        parameters = inspect.signature(self.factory).parameters.values()
        return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


_REGISTRY: dict[str, Spec] = {}


def register(
    name: str,
    *,
    unbiased: bool,
    families: tuple[str, ...] = ("bernoulli", "categorical"),
    **facts: bool,
) -> Callable[[Factory], Factory]:
    """Registers a factory under a name, so that `make` and the configs know it.

    Args:
      name: of the estimator.
      unbiased, families: see `Spec`.
      **facts: the other facts of `Spec`, such as `relaxes`; False by default.

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
        _REGISTRY[name] = Spec(name, factory, families, unbiased, **facts)
        return factory

    return add


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


def make(name: str, family: Family | str, **options: Any) -> Estimator:
    """Makes an estimator by name.

    Args:
      name: one of `names()`.
      family: `gumbel.BERNOULLI` or `gumbel.CATEGORICAL`, or its name; of all the objective's sites.
      **options: the keyword options of the estimator's factory.

    Raises:
      ValueError: unknown name, family or option, a family that the estimator cannot serve, or an
        option out of range.

    Example:
      >>> from gumbel import CATEGORICAL, estimators
      >>> estimator = estimators.make("vimco", CATEGORICAL, num_samples=5)
    """
    known = spec(name)
    family = family_called(family) if isinstance(family, str) else family
    if family.name not in known.families:
        raise ValueError(
            f"estimator {name!r} cannot serve {family.name} variables: it is defined for "
            f"{', '.join(known.families)}"
        )
    for option in options:
        if option not in known.options:
            raise ValueError(
                f"estimator {name!r} has no option {option!r}{_nearest(option, known.options)}"
            )
    return known.factory(family, **options)


def _nearest(word: str, valid: Any) -> str:
    valid = list(valid)
    near = difflib.get_close_matches(word, valid, n=3, cutoff=0.4) or valid
    return f": did you mean {' or '.join(near)}?" if near else ": it has none"
