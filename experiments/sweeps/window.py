"""The part of an axis where settings differ."""

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes

_FENCE = 3.0  # times the distance from the best to the median: what lies above is an outlier
_SQUEEZE = 3.0  # outliers are left outside if they would shrink the others by more than this
_LEAST = 0.01  # nats: the smallest range shown


class Window(NamedTuple):
    """The losses that a plot shows.

    Attributes:
      low, high: the best loss, and the worst that is shown.
      cut: whether losses above `high` lie outside.
    """

    low: float
    high: float
    cut: bool

    def outside(self, loss: float) -> bool:
        """Whether a loss lies outside, or is not finite."""
        return not math.isfinite(loss) or (self.cut and loss > self.high)

    def widened(self, ends: Iterable[float]) -> "Window":
        """The window with room for the ends of intervals, as far as they leave the means apart."""
        span, ends = max(self.high - self.low, _LEAST), [end for end in ends if math.isfinite(end)]
        low = max(min([self.low, *ends]), self.low - span)
        return Window(low, min(max([self.high, *ends]), self.high + span), self.cut)

    def limits(self) -> tuple[float, float]:
        """Limits of an axis, with a margin; more of it where outliers are marked."""
        margin = max(self.high - self.low, _LEAST)
        return self.low - 0.1 * margin, self.high + (0.3 if self.cut else 0.1) * margin


def window(losses: Iterable[float]) -> Window:
    """Where the losses differ: all of them, unless a few are so bad that they squeeze the rest.

    Example:
      >>> window([19.7, 19.8, 19.9, 20.0, 66.0, 70.0])
      Window(low=19.7, high=20.0, cut=True)
      >>> window([60.0, 61.0, 62.0])
      Window(low=60.0, high=62.0, cut=False)
    """
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if not finite:
        return Window(0.0, 1.0, cut=False)
    low, worst = finite[0], finite[-1]
    fence = low + max(_FENCE * (statistics.median_low(finite) - low), _LEAST)
    high = max(loss for loss in finite if loss <= fence)
    if worst - low <= _SQUEEZE * max(high - low, _LEAST):
        return Window(low, worst, cut=False)
    return Window(low, high, cut=True)


def mark(axes: Axes, place: float, loss: float, seen: Window, *, upwards: bool) -> None:
    """Marks a loss that lies outside at the edge of the window, with its value.

    Args:
      axes: axes to draw on.
      place: position on the axis of the settings.
      loss: the value; not finite for one that has none.
      seen: the window.
      upwards: whether losses grow up the page, rather than to the right.
    """
    edge = seen.limits()[1] if seen.cut else seen.high
    text = f"{loss:.2f}" if math.isfinite(loss) else "not finite"
    at = (place, edge) if upwards else (edge, place)
    marker = "^" if upwards else ">"
    axes.plot(*at, marker, color="C3", clip_on=False, zorder=5)
    axes.annotate(
        text,
        at,
        xytext=(0, -6) if upwards else (-6, 0),
        textcoords="offset points",
        ha="center" if upwards else "right",
        va="top" if upwards else "center",
        color="C3",
        fontsize=7,
    )
