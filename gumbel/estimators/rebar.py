"""REBAR: the score function with the relaxed cost as its control variate."""

from gumbel.estimators import relaxed_control
from gumbel.estimators.base import Estimator, register
from gumbel.estimators.control import RANGES, learner
from gumbel.sites import Families


@register(
    "rebar",
    unbiased=True,
    relaxes=True,
    smooth=True,
    passes="(1 + L) + (1 + L)",
    ranges=RANGES,
)
def rebar(
    family: Families,
    *,
    eta: float = 1.0,
    learn_temperature: bool = True,
    control_optimizer: str = "adam",
    control_learning_rate: float = 0.01,
) -> Estimator:
    """REBAR: the score function, with the cost of the relaxed sample as control variate.

    With the discrete sample `b`, the relaxed sample `y = softmax((l + u) / temperature)` (`sigmoid`
    for Bernoulli variables), and `u~`, which equals `u` but is differentiated in the logits as the
    noise given `b`, the estimate is

        [f(b) - eta f(y)] grad log q(b) - eta df(y)/du . grad u~ + grad f(b)

    Each site has a coefficient `eta`. These and the temperature are learned by the gradient of the
    squared estimate; see `gumbel.estimators.control`. `gumbel.estimators.relaxed_control` explains
    why the estimate is unbiased, also for stacks and loops. The gradient of the surrogate in the
    temperature is that of the squared estimate, so a learned temperature lowers the variance. It
    has no second derivative. The cost must be continuous in the relaxed samples, and
    `stop_gradient` must hide no part of it: a comparison that flips while they move between 0 and 1
    biases the estimate, and `init` refuses what it finds of these.

    Args:
      family: family of the sites.
      eta: initial value of the coefficients; 0 is the score function.
      learn_temperature: learn a factor that multiplies the temperature passed to the surrogate.
      control_optimizer: optimizer of the coefficients: `adam`, `rmsprop` or `sgd`.
      control_learning_rate: learning rate of that optimizer; 0 keeps the coefficients constant.

    Source: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017).
    """
    fitted = learner(control_optimizer, control_learning_rate)
    control = relaxed_control.RelaxedControl(fitted, eta, learn_temperature)
    return relaxed_control.estimator(family, control)
