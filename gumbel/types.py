"""The protocols between models and estimators, and the names of their arrays.

A model exports an *objective*, a pure function that asks an injected *sampler* for each of its
discrete variables by site name. It never learns which estimator trains it.
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
# One per example; or a single one for the whole batch, whose examples are then coupled.
Cost = Float[Array, " B"] | Float[Array, ""]


class Sampler(Protocol):
    """Gives the values of the discrete variables at one site.

    `sample(site, logits) -> z`, with `z` of the shape and dtype of `logits`. The first axis is the
    batch, the last one (for one-hot categorical variables) the K values; any axes between them
    count variables: `[B]`, `[B, D]` or `[B, T, D]` for Bernoulli variables, `[B, K]`, `[B, D, K]`
    or `[B, T, D, K]` for categorical ones. Every site has a name of its own.

    A loop over sites is written with `sample.scan`. A call inside any other JAX transformation
    that begins within the objective (a raw `scan`, `vmap`, `cond`, `jit`, ...) is refused, since
    its single draw would serve every iteration.
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
          logits: of the site's variables.
          family: of this site, where sites have different families.
          where: a mask of the variables (the logits' shape without K, or axes of size 1). A masked
            variable is 0, whatever its logits, and adds no score, no variance and no gradient.
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
        """`jax.lax.scan` whose body may call `sample`, and `sample.scan` in turn.

        Every step draws with a key of its own. To everything outside the loop, a site `[B, ...]`
        of the body is one site with a further axis of variables, `[B, T, ...]`.
        """


class Objective(Protocol):
    """A cost in nats, as a function of sampled discrete variables.

    `objective(params, batch, key, sample) -> cost`, or `(cost, aux)` with any pytree `aux`.

    A cost of shape `[B]` declares that examples are independent: example `b` depends on its own
    samples only. A cost that couples examples (batch normalization after a sample, in-batch
    negatives, a variable shared by the batch) has to be a scalar, `[]`. `key` is for the
    objective's own noise (a Gaussian latent, dropout); `sample` has its own keys.

    State that a model changes, such as the statistics of batch normalization, comes in with the
    batch and leaves as `aux`. In Flax NNX:

        graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)

        def objective(params, batch, key, sample):
            model = nnx.merge(graph, params, batch["statistics"], copy=True)
            return jnp.mean(model.costs(batch["x"], sample)), nnx.state(model, nnx.BatchStat)
    """

    def __call__(self, params: Params, batch: Batch, key: PRNGKey, sample: Sampler, /) -> Any:
        """The cost, or the cost and `aux`."""
