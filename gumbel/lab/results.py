"""The result of a comparison of estimators: rows of numbers, a table, and a recommendation."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any, Self

_TOO_MANY = 1e10  # estimates to average, for an error of the size of the gradient


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurements of one estimator, at one temperature, in one group of parameters.

    Attributes:
      estimator: name of the estimator.
      temperature: None for an estimator that does not read it.
      group: a top-level key of the parameters, or `all`.
      unbiased: whether the estimator, with its options, is known to be unbiased.
      bias: distance between the expected estimate and the true gradient, 0 if too small to measure.
      bias_interval: 95% interval of `bias`, plus the rounding of float32, 2e-6 of an estimate.
      variance: `E|g - E g|^2` of one estimate.
      error: mean squared error, `variance + bias^2`.
      cosine: mean cosine between one estimate and the true gradient. If the latter comes from a
        long run, the error of that run makes it too small.
      norm: norm of the true gradient.
      passes: forward passes plus backward passes through the objective per estimate; 2 for `sf`.
      milliseconds: time per estimate, for all groups together, including adding it to the sums.
    """

    estimator: str
    temperature: float | None
    group: str
    unbiased: bool
    bias: float
    bias_interval: tuple[float, float]
    variance: float
    error: float
    cosine: float
    norm: float
    passes: int
    milliseconds: float

    @property
    def label(self) -> str:
        """The estimator and its temperature, in words."""
        at = "" if self.temperature is None else f" at temperature {self.temperature:g}"
        return f"{self.estimator}{at}"

    @property
    def variance_per_pass(self) -> float:
        """Variance at equal cost in passes: `variance * passes`."""
        return self.variance * self.passes

    @property
    def variance_per_millisecond(self) -> float:
        """Variance at equal time: `variance * milliseconds`."""
        return self.variance * self.milliseconds

    def error_at(self, milliseconds: float) -> float:
        """The mean squared error of the average of as many estimates as fit into this time.

        The measured bias of an unbiased estimator is noise and is ignored, unless its interval
        excludes 0: then the estimator's assumptions do not hold for this objective.
        """
        noise = self.unbiased and not self.bias_interval[0] > 0
        bias = 0.0 if noise else self.bias
        return bias**2 + self.variance * self.milliseconds / milliseconds


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `gumbel.lab.compare`; `print` shows it as a table.

    Attributes:
      reference: source of the true gradient: enumeration, or a long run of an estimator.
      rows: one for each estimator, temperature, and group.
      skipped: by name of an estimator, why it was not measured.
    """

    reference: str
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain data, for JSON."""
        rows = [
            dataclasses.asdict(row)
            | {
                "variance_per_pass": row.variance_per_pass,
                "variance_per_millisecond": row.variance_per_millisecond,
            }
            for row in self.rows
        ]
        return {"reference": self.reference, "rows": rows, "skipped": dict(self.skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The comparison that `as_dict` turned into plain data; None becomes NaN."""
        names = [field.name for field in dataclasses.fields(Row)]
        rows = []
        for row in data["rows"]:
            numbers: dict[str, Any] = {n: math.nan if row[n] is None else row[n] for n in names}
            low, high = (math.nan if end is None else end for end in row["bias_interval"])
            known = {"temperature": row["temperature"], "bias_interval": (low, high)}
            rows.append(Row(**numbers | known))
        return cls(data["reference"], tuple(rows), dict(data["skipped"]))

    def of_group(self, group: str = "all") -> list[Row]:
        """The rows of one group, the smallest error first; rows without a finite error come last.

        Raises:
          ValueError: no row is of this group.
        """
        found = [row for row in self.rows if row.group == group]
        groups = sorted({row.group for row in self.rows})
        if groups and not found:
            raise ValueError(f"group={group!r} was not measured: choose {', '.join(groups)}")
        return sorted(found, key=lambda row: (not math.isfinite(row.error), row.error))

    def table(self, group: str = "all") -> str:
        """The rows of one group, the smallest error first, as text."""
        heading = (
            f"{'estimator':20} {'temp.':>6} {'bias':>9} {'95%':>19} {'variance':>9} "
            f"{'error':>9} {'cosine':>7} {'passes':>6} {'var*pass':>9} {'ms':>8} {'var*ms':>9}"
        )
        lines = [f"true gradient: {self.reference}; group: {group}", heading]
        for row in self.of_group(group):
            temperature = "" if row.temperature is None else f"{row.temperature:g}"
            low, high = row.bias_interval
            lines.append(
                f"{row.estimator:20} {temperature:>6} {row.bias:9.3g} "
                f"{f'{low:.3g}..{high:.3g}':>19} {row.variance:9.3g} {row.error:9.3g} "
                f"{row.cosine:7.3f} {row.passes:6} {row.variance_per_pass:9.3g} "
                f"{row.milliseconds:8.3g} {row.variance_per_millisecond:9.3g}"
            )
        lines += [f"{name:20} skipped: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    __str__ = table

    def budgets(self, group: str = "all") -> tuple[float, float]:
        """Two time budgets for a gradient, in milliseconds.

        The first is the median time of an estimate with a finite error (of an even number, the
        lower of the two in the middle, so that half of them fit). The second is a hundred times as
        long.

        Raises:
          ValueError: there is none in this group.
        """
        small = statistics.median_low(row.milliseconds for row in self._usable(group))
        return small, 100 * small

    def best(self, milliseconds: float, group: str = "all") -> Row:
        """The row with the smallest error in this time budget, of those that fit into it.

        Raises:
          ValueError: none fits, or no error of the group is finite.
        """
        usable = self._usable(group)
        fitting = [row for row in usable if row.milliseconds <= milliseconds]
        if not fitting:
            least = min(row.milliseconds for row in usable)
            raise ValueError(
                f"milliseconds={milliseconds:g}: no estimate takes less than {least:.3g}"
            )
        return min(fitting, key=lambda row: row.error_at(milliseconds))

    def _usable(self, group: str) -> list[Row]:
        found = [row for row in self.of_group(group) if math.isfinite(row.error)]
        if not found:
            raise ValueError(f"group={group!r}: no estimate has a finite error")
        return found

    def advice(self, group: str = "all") -> str:
        """A recommendation, and its assumptions."""
        rows = self.of_group(group)
        if not rows:
            return "No estimator was measured."
        failed = sorted({row.label for row in rows if not math.isfinite(row.error)})
        if len(failed) == len(rows):
            return "No estimator has a finite error: the cost or its derivative is not finite."
        chosen = [(self.best(time, group), time) for time in self.budgets(group)]
        (first, small), (last, large) = chosen
        choices = f"With {small:.3g} ms per gradient, use {first.label}; with {large:.3g} ms, "
        choices += "the same" if last is first else last.label
        shares = [row.error_at(time) / max(row.norm**2, 1e-30) for row, time in chosen]
        if not any(row.norm for row in rows) or min(shares) > _TOO_MANY:
            return "The true gradient is 0, to rounding: there is nothing to choose by."
        errors = " and ".join(f"{share:.3g}" for share in shares)
        without = f"Not finite: {', '.join(failed)}.\n" if failed else ""
        return without + (
            f"{choices}: their mean squared errors, {errors} of the squared norm of the gradient, "
            "are the smallest measured.\n"
            "This assumes that the time goes into averaging independent estimates, that these "
            "parameters and this batch are typical of training, that each estimator runs with the "
            "options and after the warm-up given here, and that times are those of this machine; a "
            "bias within its interval of 0 may be noise."
        )
