"""The two protocols that models and estimators meet at, and the names of their arrays.

A model exports an *objective*, a pure function that asks an injected *sampler* for each of its
discrete variables by site name. It never learns which estimator trains it.
"""

from typing import Protocol, TypeAlias

from jaxtyping import Array, Float, Key, PyTree, UInt32

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]
Params: TypeAlias = PyTree
Batch: TypeAlias = PyTree
Logits = Float[Array, "B *event"]
Sample = Float[Array, "B *event"]
Cost = Float[Array, " B"]


class Sampler(Protocol):
    """Gives the value of the discrete variables at one site.

    `sample(site, logits) -> z`, with `z` of the shape and dtype of `logits`: `[B, ..., D]` for
    Bernoulli variables, `[B, ..., D, K]` for one-hot categorical ones. Call it once per site, in
    the body of the objective itself and not inside an inner `vmap`, `scan` or `cond`.
    """

    def __call__(self, site: str, logits: Logits, /) -> Sample:
        """The value at `site`."""


class Objective(Protocol):
    """A cost in nats for each example, as a function of sampled discrete variables.

    `objective(params, batch, key, sample) -> cost`, `cost` of shape `[B]`. `key` is for the
    objective's own noise (a Gaussian latent, dropout); `sample` brings its own.
    """

    def __call__(self, params: Params, batch: Batch, key: PRNGKey, sample: Sampler, /) -> Cost:
        """The cost of each example."""
