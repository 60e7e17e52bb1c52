"""Families of discrete distributions: all that an estimator asks of one.

A family has no state and is hashable, so it may be a static argument. Its methods take the logits
of D variables: `[..., D]` for Bernoulli variables (log odds), `[..., D, K]` for categorical ones
(unnormalised log probabilities, K up to 1e6), floating-point and finite: to rule a value out, give
it -1e4 and not -inf, whose log probability times 0 is NaN. A value `z` has the shape of its logits
and is one-hot along K for a categorical variable.

Log probabilities, entropies and KLs are in nats, one for each variable, `[..., D]`, and in float32
at least for 16-bit logits too, because they are there to be summed.
"""

import abc
import dataclasses
import difflib
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, sigmoid, softmax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gumbel import densities, relaxations, sampling
from gumbel.numerics import floating, softplus, upcast
from gumbel.types import PRNGKey

Values = Float[Array, "..."]  # logits or z: [..., D] or [..., D, K]
PerVariable = Float[Array, "*batch D"]


@dataclasses.dataclass(frozen=True)
class Family(abc.ABC):
    """Discrete variables that are independent of each other given their logits.

    Attributes:
      name: by which `family` finds it.
      event_ndims: how many trailing axes of the logits belong to one variable.
    """

    name: ClassVar[str]
    event_ndims: ClassVar[int]

    @abc.abstractmethod
    def sample(self, key: PRNGKey, logits: Values) -> Values:
        """Draws `z`, of the shape and dtype of `logits`; no gradient flows through it.

        For K up to 1,000,000 any set of values whose probabilities sum to 1e-6 or more comes as
        often as it should, within 1 %; a value of probability 0 never comes.
        """

    @abc.abstractmethod
    def relax(
        self, key: PRNGKey, logits: Values, temperature: ArrayLike, *, hard: bool = False
    ) -> Values:
        """Draws a relaxed `z`, differentiable in `logits` and `temperature`.

        Raises ValueError for a known temperature that is not positive and finite. With `hard` the
        value is discrete and only the gradient relaxed (straight-through).
        """

    @abc.abstractmethod
    def mean(self, logits: Values) -> Values:
        """`E[z]`, of the shape and dtype of `logits`."""

    @abc.abstractmethod
    def uniform_mean(self, logits: Values) -> Values:
        """`E[z]` if all values were equally likely, of the shape and dtype of `logits`."""

    @abc.abstractmethod
    def log_prob(self, logits: Values, z: Values) -> PerVariable:
        """`log p(z)`, extended linearly to relaxed `z`."""

    @abc.abstractmethod
    def entropy(self, logits: Values) -> PerVariable:
        """`-E[log p(z)]`."""

    @abc.abstractmethod
    def kl(self, logits_q: Values, logits_p: Values) -> PerVariable:
        """`KL(q || p) = E_q[log q(z) - log p(z)]`; the two logits broadcast."""

    @abc.abstractmethod
    def relaxed_log_prob(self, logits: Values, temperature: ArrayLike, z: Values) -> PerVariable:
        """The log density that `relax` gives to `z`; see `gumbel.densities`."""

    @abc.abstractmethod
    def num_values(self, logits_shape: tuple[int, ...]) -> int:
        """How many values one variable has: 2 or K."""

    @abc.abstractmethod
    def _encode(self, values: Array, event_shape: tuple[int, ...], dtype: DTypeLike) -> Values:
        """Turns the numbers of D values `[D]` into a `z` of shape `event_shape`."""

    def num_variables(self, event_shape: tuple[int, ...]) -> int:
        """How many variables a site has whose logits per example have shape `event_shape`.

        Example:
          >>> BERNOULLI.num_variables((200,)), CATEGORICAL.num_variables((20, 10))
          (200, 20)
        """
        return math.prod(event_shape[: len(event_shape) - self.event_ndims])

    def joint_value(
        self, index: ArrayLike, event_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> Values:
        """Joint value number `index` of a site, made from the index alone.

        The variables are the digits of the index in base 2 or K, the first variable the most
        significant: counting up gives the order of `itertools.product`.

        Args:
          index: integer in [0, N), maybe traced, with `N = num_values ** num_variables`.
          event_shape: shape of the site's logits per example, `(D,)` or `(D, K)`.
          dtype: of the result.

        Returns:
          One `z` of shape `event_shape`.

        Raises:
          ValueError: N is over 2^31 - 1, more than an index can count.

        Example:
          >>> BERNOULLI.joint_value(5, (4,)).tolist()
          [0.0, 1.0, 0.0, 1.0]
        """
        self._count(event_shape)
        base, size = self.num_values(event_shape), self.num_variables(event_shape)
        place_values = np.array([base ** (size - 1 - d) for d in range(size)], np.int32)
        digits = jnp.asarray(index, jnp.int32) // place_values % base
        return self._encode(digits, event_shape, dtype)

    def support(
        self, event_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "N *event"]:
        """All joint values of a site, in the order of `joint_value` and with its arguments.

        Raises:
          ValueError: there are more than 2^31 - 1.

        Example:
          >>> BERNOULLI.support((2,)).tolist()
          [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
        """
        indices = jnp.arange(self._count(event_shape), dtype=jnp.int32)
        return jax.vmap(lambda index: self.joint_value(index, event_shape, dtype))(indices)

    def _count(self, event_shape: tuple[int, ...]) -> int:
        base, size = self.num_values(event_shape), self.num_variables(event_shape)
        count: int = base**size
        if count > np.iinfo(np.int32).max:
            raise ValueError(
                f"{size} {self.name} variables have {base}^{size} joint values, more than 2^31 - 1:"
                " use fewer variables, or an estimator that samples"
            )
        return count


@dataclasses.dataclass(frozen=True)
class Bernoulli(Family):
    """Binary variables, `P(z = 1) = sigmoid(logits)`, logits `[..., D]`.

    Example:
      >>> BERNOULLI.mean(jnp.array([-1e4, 0.0, 1e4])).tolist()
      [0.0, 0.5, 1.0]
    """

    name: ClassVar[str] = "bernoulli"
    event_ndims: ClassVar[int] = 0

    def sample(self, key: PRNGKey, logits: Values) -> Values:
        """See `gumbel.sampling.bernoulli`."""
        return sampling.bernoulli(key, floating(logits))

    def relax(
        self, key: PRNGKey, logits: Values, temperature: ArrayLike, *, hard: bool = False
    ) -> Values:
        """See `gumbel.relaxations.binary_concrete`."""
        return relaxations.binary_concrete(key, logits, temperature, hard=hard)

    def mean(self, logits: Values) -> Values:
        """`sigmoid(logits)`."""
        logits = floating(logits)
        return sigmoid(upcast(logits)).astype(logits.dtype)

    def uniform_mean(self, logits: Values) -> Values:
        """1/2."""
        return jnp.full_like(floating(logits), 0.5)

    def log_prob(self, logits: Values, z: Values) -> PerVariable:
        """`z * logits - log(1 + exp(logits))`."""
        logits = upcast(logits)
        return upcast(z) * logits - softplus(logits)

    def entropy(self, logits: Values) -> PerVariable:
        """`-p log p - (1 - p) log(1 - p)`, with `p = sigmoid(logits)`."""
        x = upcast(logits)  # softplus(-x) = -log p: each term is small where the entropy is
        return sigmoid(x) * softplus(-x) + sigmoid(-x) * softplus(x)

    def kl(self, logits_q: Values, logits_p: Values) -> PerVariable:
        """`q log(q / p) + (1 - q) log((1 - q) / (1 - p))`."""
        q, p = upcast(logits_q), upcast(logits_p)
        one = sigmoid(q) * (softplus(-p) - softplus(-q))
        zero = sigmoid(-q) * (softplus(p) - softplus(q))
        return one + zero

    def relaxed_log_prob(self, logits: Values, temperature: ArrayLike, z: Values) -> PerVariable:
        """See `gumbel.densities.binary_concrete_log_prob`."""
        return densities.binary_concrete_log_prob(z, logits, temperature)

    def num_values(self, logits_shape: tuple[int, ...]) -> int:
        """2."""
        return 2

    def _encode(self, values: Array, event_shape: tuple[int, ...], dtype: DTypeLike) -> Values:
        return values.astype(dtype).reshape(event_shape)


@dataclasses.dataclass(frozen=True)
class Categorical(Family):
    """One-hot variables, `P(z_k = 1) = softmax(logits)_k`, logits `[..., D, K]`.

    Example:
      >>> CATEGORICAL.entropy(jnp.zeros((1, 2, 4))).shape
      (1, 2)
    """

    name: ClassVar[str] = "categorical"
    event_ndims: ClassVar[int] = 1

    def sample(self, key: PRNGKey, logits: Values) -> Values:
        """See `gumbel.sampling.categorical`."""
        return sampling.categorical(key, floating(logits))

    def relax(
        self, key: PRNGKey, logits: Values, temperature: ArrayLike, *, hard: bool = False
    ) -> Values:
        """See `gumbel.relaxations.gumbel_softmax`."""
        return relaxations.gumbel_softmax(key, logits, temperature, hard=hard)

    def mean(self, logits: Values) -> Values:
        """`softmax(logits)`."""
        logits = floating(logits)
        return softmax(upcast(logits), axis=-1).astype(logits.dtype)

    def uniform_mean(self, logits: Values) -> Values:
        """1/K."""
        logits = floating(logits)
        return jnp.full_like(logits, 1 / logits.shape[-1])

    def log_prob(self, logits: Values, z: Values) -> PerVariable:
        """`sum_k z_k log softmax(logits)_k`."""
        return jnp.sum(upcast(z) * log_softmax(upcast(logits), axis=-1), axis=-1)

    def entropy(self, logits: Values) -> PerVariable:
        """`-sum_k p_k log p_k`, with `p = softmax(logits)`."""
        log_p = log_softmax(upcast(logits), axis=-1)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def kl(self, logits_q: Values, logits_p: Values) -> PerVariable:
        """`sum_k q_k (log q_k - log p_k)`."""
        log_q = log_softmax(upcast(logits_q), axis=-1)
        log_p = log_softmax(upcast(logits_p), axis=-1)
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)

    def relaxed_log_prob(self, logits: Values, temperature: ArrayLike, z: Values) -> PerVariable:
        """See `gumbel.densities.gumbel_softmax_log_prob`."""
        return densities.gumbel_softmax_log_prob(z, logits, temperature)

    def num_values(self, logits_shape: tuple[int, ...]) -> int:
        """K."""
        return logits_shape[-1]

    def _encode(self, values: Array, event_shape: tuple[int, ...], dtype: DTypeLike) -> Values:
        return jax.nn.one_hot(values, event_shape[-1], dtype=dtype).reshape(event_shape)


BERNOULLI = Bernoulli()
CATEGORICAL = Categorical()
_FAMILIES: dict[str, Family] = {known.name: known for known in (BERNOULLI, CATEGORICAL)}


def family(name: str) -> Family:
    """The family called `name`: `bernoulli` or `categorical`.

    Raises:
      ValueError: there is none; the message names the nearest.

    Example:
      >>> family("categorical") is CATEGORICAL
      True
      >>> family("bernouli")
      Traceback (most recent call last):
      ...
      ValueError: unknown family 'bernouli': did you mean 'bernoulli'?
    """
    if name in _FAMILIES:
        return _FAMILIES[name]
    nearest = difflib.get_close_matches(name, _FAMILIES, n=1) or list(_FAMILIES)
    raise ValueError(f"unknown family {name!r}: did you mean {' or '.join(map(repr, nearest))}?")
