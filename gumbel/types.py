"""The protocols between models and estimators, and the names of their arrays.

A model is an *objective*, a pure function that calls a *sampler* for each of its discrete
variables, by site name. It does not depend on the estimator that trains it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from jaxtyping import Array, Bool, Float, Key, PyTree, UInt32

if TYPE_CHECKING:
    from gumbel.families import Family

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]
Params: TypeAlias = PyTree
Batch: TypeAlias = PyTree
Logits = Float[Array, "B *event"]
Sample = Float[Array, "B *event"]
Mask = Bool[Array, "B *variables"]
# One per example, or one for the whole batch, whose examples are then coupled.
Cost = Float[Array, " B"] | Float[Array, ""]


class Sampler(Protocol):
    """Gives the values of the discrete variables at one site.

    `sample(site, logits) -> z`, with `z` in the shape and dtype of `logits`. The first axis is the
    batch. For categorical variables, which are one-hot, the last axis has the K values. Axes in
    between are axes of variables: `[B]`, `[B, D]` or `[B, T, D]` for Bernoulli variables, `[B, K]`,
    `[B, D, K]` or `[B, T, D, K]` for categorical ones. Every site needs its own name.

    Write a loop over sites with `sample.scan`. A call inside any other JAX transformation within
    the objective (a raw `scan`, `vmap`, `cond`, `jit`, ...) raises an error, because every
    iteration would reuse one draw.
    """

    def __call__(
        self,
        site: str,
        logits: Logits,
        /,
        *,
        family: "Family | str | None" = None,
        where: Mask | None = None,
    ) -> Sample:
        """The value at `site`.

        Args:
          site: name of the site, used once per pass.
          logits: logits of the site's variables.
          family: family of this site, if sites have different families.
          where: mask of the variables (the shape of the logits without K; axes may have size 1). A
            masked variable is 0 whatever its logits, and contributes nothing to the gradient or
            its variance.

        Returns:
          A value for each variable, in the shape and dtype of `logits`.

        Raises:
          TypeError: `site` is not a string, or `logits` are not floating-point.
          ValueError: the site is sampled twice, or inside another JAX transformation; it has no
            family, or two; or `where` is not a mask of its variables.
        """

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
        """`jax.lax.scan` whose body may call `sample` and `sample.scan`.

        Every step draws with its own key. Outside the loop, a site `[B, ...]` of the body is one
        site with an additional axis of variables, `[B, T, ...]`.

        Raises:
          TypeError: `body` does not return a pair, or `length` is not an integer.
          ValueError: neither `xs` nor `length` gives the number of steps.
        """


class Objective(Protocol):
    """A cost in nats, as a function of sampled discrete variables.

    `objective(params, batch, key, sample) -> cost`, or `(cost, aux)` with a pytree of arrays `aux`.

    A cost of shape `[B]` declares that examples are independent: the cost of example `b` depends
    on its own samples only. A cost that couples examples (batch normalization after a sample,
    in-batch negatives, a variable shared by the batch) has to be a scalar, `[]`. Under `shard_map`,
    a collective must not lead from the samples to the cost unless the gradient flows through them;
    with `jax.vmap(..., axis_name=)` nothing detects that.

    `key` is for the objective's own noise (a Gaussian latent, dropout); `sample` has its own keys.
    `key` is derived from the key that the surrogate or `gumbel.exact` is given. Do not rely on how:
    to compare gradients of an objective with noise of its own, average over keys.

    Pass mutable state, such as the statistics of batch normalization, in with the batch and return
    it as `aux`. In Flax NNX:

        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)

        def objective(params, batch, key, sample):
            model = nnx.merge(graph, params, batch["statistics"], copy=True)
            return jnp.mean(model.costs(batch["x"], sample)), nnx.state(model, nnx.BatchStat)
    """

    def __call__(self, params: Params, batch: Batch, key: PRNGKey, sample: Sampler, /) -> Any:
        """The cost, or the cost and `aux`."""
