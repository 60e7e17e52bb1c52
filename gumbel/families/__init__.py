"""Families of discrete distributions: all that an estimator needs to know of them.

A family has no state and is hashable, so it may be a static argument. Its methods take the logits
of D variables: `[..., D]` for Bernoulli variables (log odds), `[..., D, K]` for categorical ones
(unnormalized log probabilities, K up to 1,000,000), floating-point. `D` may be missing: `[]` and
`[K]` are the logits of one variable. A value `z` has the shape of its logits and is one-hot along
K for a categorical variable.

A logit of -inf (log odds of +-inf) rules a value out, as does one of -1e9: it is never drawn, its
mean is 0, it adds 0 to entropies and KLs, and every gradient stays finite. At a logit of -inf its
log probability is -inf, and `KL(q || p)` is inf where q has mass and p has none.

NaN in, NaN out, for the affected variable and no other. A categorical variable whose logits are
all -inf, or of which one is inf, is NaN too.

Log probabilities, entropies and KLs are in nats, one for each variable, `[..., D]`, and in float32
at least for 16-bit logits too, because they are there to be summed.
"""

from gumbel.arguments import suggestion
from gumbel.families.base import Family
from gumbel.families.bernoulli import BERNOULLI, Bernoulli
from gumbel.families.categorical import CATEGORICAL, Categorical

__all__ = ["BERNOULLI", "CATEGORICAL", "Bernoulli", "Categorical", "Family", "family"]

_FAMILIES: tuple[Family, ...] = (BERNOULLI, CATEGORICAL)


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
    for known in _FAMILIES:
        if known.name == name:
            return known
    names = [repr(known.name) for known in _FAMILIES]
    raise ValueError(f"unknown family {name!r}: {suggestion(name, names)}")
