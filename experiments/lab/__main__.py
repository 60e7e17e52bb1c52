"""Compares the gradients of all estimators at the parameters of a run.

python -m experiments.lab --workdir=RUN [--estimators=NAME,...] [--temperatures=0.5,1.0]

RUN is the directory of a run, finished or not. Results go to RUN/lab; nothing else in RUN changes.
For each estimator that applies to the run, the command measures bias with an interval, variance,
mean squared error, cosine, passes, and time. Rerun the same command to resume.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import command
from experiments.errors import UserError, refuse_empty
from experiments.files import write_text
from experiments.lab import measure
from experiments.lab.bar import progress_bar
from experiments.lab.measure import Request
from experiments.settings import POSITIVE
from experiments.training import loading, out_of_memory
from experiments.training.compilations import keep_compilations
from gumbel import estimators


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "(required) the directory of the run", **define)
    flags.DEFINE_string(
        "output", None, "the directory for results; WORKDIR/lab by default", **define
    )
    flags.DEFINE_list("estimators", None, "names; by default all that apply", **define)
    flags.DEFINE_list(
        "temperatures",
        ["0.1", "0.5", "1.0"],
        "temperatures to measure at; 0.1,0.5,1.0 by default",
        **define,
    )
    flags.DEFINE_integer(
        "draws",
        1000,
        "estimates per estimator and temperature; 1000 by default",
        lower_bound=10,
        **define,
    )
    flags.DEFINE_integer(
        "warmup",
        200,
        "steps before measuring, for learned baselines; 200 by default",
        lower_bound=0,
        **define,
    )
    flags.DEFINE_integer(
        "reference_draws",
        10_000,
        "estimates whose mean stands in for the true gradient if enumeration is too expensive: by "
        "muprop, or by rloo if JAX cannot differentiate the cost in the samples; 10000 by default",
        lower_bound=10,
        **define,
    )
    flags.DEFINE_integer(
        "images", 100, "number of training images; 100 by default", lower_bound=1, **define
    )
    flags.DEFINE_integer(
        "max_passes",
        64,
        "skip estimators that take more passes per estimate, forward and backward ones counted "
        "separately (2 for sf); 64 by default",
        lower_bound=1,
        **define,
    )


def main(given: Mapping[str, Any]) -> int:
    """Compares the gradients of all estimators at the parameters of a run."""
    workdir = command.required_path(given["workdir"], "workdir=RUN", "name the directory of a run")
    output = command.optional_path(given["output"], "output") or workdir / "lab"
    request = Request(
        estimators=_names(given["estimators"]),
        temperatures=_temperatures(given["temperatures"]),
        num_draws=given["draws"],
        num_warmup=given["warmup"],
        reference_draws=given["reference_draws"],
        batch_size=given["images"],
        max_passes=given["max_passes"],
    )
    run = loading.load(workdir)
    keep_compilations()
    advice = "give fewer --images, or leave estimators of many samples out"
    with progress_bar() as progress, out_of_memory.explaining(advice=advice):
        found = measure.measure(run, request, output, progress)
    text = f"{found.table()}\n\n{found.advice()}\n"
    write_text(output / measure.TABLE, text)
    print(text)
    if any(math.isfinite(row.error) for row in found.of_group()):
        from experiments.lab import figures  # matplotlib takes a second to import

        settings = run.settings
        title = f"{settings.task}, {settings.latent}, step {run.step:,}"
        figures.draw(output / measure.PICTURE, found, title=title)
        print(f"picture: {output / measure.PICTURE}")
    elif found.rows:
        print("no picture: no estimate has a finite error")
    print(f"numbers: {output / measure.NUMBERS}")
    return 0


def _names(given: list[str] | None) -> tuple[str, ...] | None:
    refuse_empty("estimators", given, estimators.names())
    if given is None:
        return None
    try:
        return tuple(estimators.spec(name).name for name in given)
    except ValueError as error:
        raise UserError(f"--estimators: {error}") from error


def _temperatures(given: list[str]) -> tuple[float, ...]:
    try:
        values = tuple(map(float, given))
    except ValueError:
        values = ()
    if not values or not all(map(POSITIVE.test, values)):
        raise UserError(
            f"--temperatures={','.join(given)}: give positive numbers that float32 can represent, "
            "such as 0.5,1.0"
        )
    return values


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
