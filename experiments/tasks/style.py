"""The weight of the KL of a style, which falls to 1 in training: a part of a task.

A task that uses this has the options `style_beta`, the weight at first, and `style_beta_share`, the
share of the steps after which it is 1.
"""

from typing import Any

from experiments.settings import Settings
from experiments.tasks.base import Dynamic
from gumbel import schedules


def annealed(settings: Settings, dynamic: Dynamic, step: Any) -> dict[str, Any]:
    """The weight of the style's KL: it falls to 1 over a share of the run's steps."""
    share = settings.options.style_beta_share
    if share == 0:  # a linear schedule would have its first step at the initial weight
        return {"style_beta": schedules.constant(1.0)(step)}
    until = max(1, round(share * settings.num_steps))
    return {"style_beta": schedules.linear(dynamic["style_beta"], 1.0, until)(step)}


def depends_on_num_steps(settings: Settings) -> str | None:
    """The share of the steps over which the style's KL is annealed, if it is."""
    options = settings.options
    if options.style_beta == 1 or options.style_beta_share == 0:
        return None
    return f"style_beta_share={options.style_beta_share}"


def unread(settings: Settings) -> dict[str, str]:
    """The key that a run does not read if the weight is 1 throughout, with the reason."""
    if settings.options.style_beta_share == 0:
        return {"style_beta": "style_beta_share=0 has a weight of 1 from the first step on"}
    if settings.options.style_beta == 1:
        return {"style_beta_share": "style_beta=1 is the weight at the end, too"}
    return {}
