"""What every family has."""

import abc
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gumbel.types import PRNGKey

Values = Float[Array, "..."]  # logits or z: [..., D] or [..., D, K]
PerVariable = Float[Array, "*batch D"]


@dataclasses.dataclass(frozen=True)
class Family(abc.ABC):
    """Discrete variables that are independent of each other given their logits.

    Attributes:
      name: name by which `family` finds it.
      event_ndims: how many trailing axes of the logits belong to one variable.
    """

    name: ClassVar[str]
    event_ndims: ClassVar[int]

    @abc.abstractmethod
    def sample(self, key: PRNGKey, logits: Values) -> Values:
        """Draws `z`, of the shape and dtype of `logits`; no gradient flows through it.

        For up to 1,000,000 values, the frequency of any set with total probability of at least 1e-6
        is accurate to 1%. A value of probability 0 is never drawn.
        """

    @abc.abstractmethod
    def relax(
        self, key: PRNGKey, logits: Values, temperature: ArrayLike, *, hard: bool = False
    ) -> Values:
        """Draws a relaxed `z`, differentiable in `logits` and `temperature`.

        Raises ValueError for a concrete (not traced) temperature that is not positive and finite.
        With `hard` the value is discrete and only the gradient relaxed (straight-through).
        """

    @abc.abstractmethod
    def conditional_noise(self, key: PRNGKey, logits: Values, z: Values) -> Values:
        """Draws the noise of `relax` given the discrete `z` that it makes.

        In float32 at least, and differentiable in `logits`; see `gumbel.conditional`.
        """

    @abc.abstractmethod
    def soften(self, logits: Values, noise: Values, temperature: ArrayLike) -> Values:
        """The relaxed `z` that `relax` makes of this noise, differentiable in all arguments."""

    @abc.abstractmethod
    def mean(self, logits: Values) -> Values:
        """`E[z]`, of the shape and dtype of `logits`."""

    @abc.abstractmethod
    def uniform_mean(self, logits: Values) -> Values:
        """`E[z]` if all values that are not ruled out were equally likely.

        Of the shape and dtype of `logits`; no gradient flows through it.
        """

    @abc.abstractmethod
    def log_prob(self, logits: Values, z: Values) -> PerVariable:
        """`log p(z)`, extended linearly to relaxed `z`.

        `z` has the rank of the logits at least, and leading axes broadcast. Raises ValueError for
        integer labels where one-hot values are meant, and for other shapes that do not fit.
        """

    @abc.abstractmethod
    def entropy(self, logits: Values) -> PerVariable:
        """`-E[log p(z)]`."""

    @abc.abstractmethod
    def kl(self, logits_q: Values, logits_p: Values) -> PerVariable:
        """`KL(q || p) = E_q[log q(z) - log p(z)]`; the two logits broadcast.

        Of nearly equal distributions it can be a rounding error, some 1e-7, below 0.
        """

    @abc.abstractmethod
    def relaxed_log_prob(self, logits: Values, z: Values, temperature: ArrayLike) -> PerVariable:
        """The log density that `relax` gives to `z`; see `gumbel.densities`."""

    @abc.abstractmethod
    def num_values(self, logits_shape: tuple[int, ...]) -> int:
        """How many values each variable has, 2 or K, from the shape of logits of any number."""

    @abc.abstractmethod
    def _encode(self, values: Array, event_shape: tuple[int, ...], dtype: DTypeLike) -> Values:
        """Turns the numbers of D values `[D]` into a `z` of shape `event_shape`."""

    def num_variables(self, event_shape: tuple[int, ...]) -> int:
        """The number of variables in a site whose logits have shape `event_shape` for each example.

        Example:
          >>> from gumbel import BERNOULLI, CATEGORICAL
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
          dtype: dtype of the result.

        Returns:
          One `z` of shape `event_shape`.

        Raises:
          ValueError: N is over 2^31 - 1, more than an index can count.

        Example:
          >>> from gumbel import BERNOULLI
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
          >>> from gumbel import BERNOULLI
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
