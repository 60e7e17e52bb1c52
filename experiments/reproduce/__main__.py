"""Reproduces a table or a figure of the paper.

python -m experiments.reproduce table1 --workdir=DIR [--preset=smoke|short|full]

`survey` trains the rows of Table 1 under every registered estimator, for equal steps and at equal
cost. `toys` measures the cost and the variance of each on the toys of the control-variate papers,
and `lab` its gradients on the four models of Table 1 while they train. `survey_curves` draws the
runs of `survey`, by step and by second; the seconds come from `step_times`.

Rerun the same command to resume. Figures 3 and 4 are drawn from the runs of `table1`, figure 5 from
the runs of `table2` and a benchmark that the command itself runs.

`--rows` and `--estimators` restrict table1 or survey to these cells, and `--seeds=1` to one final
run of each. With `--slice=SECONDS`, a table trains for that long, and the command exits with status
75 until it is done. With `--plan`, the command prints what there is to train, and trains nothing.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command
from experiments.errors import UserError, refuse_empty, suggestion
from experiments.reproduce import plan_report, table1_presets, targets, waves
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import Part
from experiments.reproduce.table2 import Table2
from experiments.reproduce.waves import Slice
from experiments.sweeps import engines
from experiments.training import out_of_memory
from experiments.training.compilations import keep_compilations
from gumbel import estimators


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "(required) the directory for the runs", **define)
    flags.DEFINE_enum(
        "preset",
        "full",
        list(table1_presets.PRESETS),
        "full (default): the paper's protocol, days; short: a tenth of the steps, hours; smoke: a "
        "few steps on digits, minutes",
        **define,
    )
    flags.DEFINE_string(
        "results",
        None,
        "the directory for records, tables and figures; WORKDIR/results by default",
        **define,
    )
    flags.DEFINE_list(
        "rows", None, "train only these rows of table1 or survey, such as sbn_bernoulli", **define
    )
    flags.DEFINE_list(
        "estimators", None, "train only these estimators of table1 or survey", **define
    )
    flags.DEFINE_integer(
        "seeds",
        None,
        "final runs per cell of table1 or survey; all by default",
        lower_bound=1,
        **define,
    )
    flags.DEFINE_bool(
        "plan", False, "print what a table still has to train, and train nothing", **define
    )
    flags.DEFINE_float(
        "steps_per_second",
        None,
        "with --plan: the speed to assume, in steps per second of all runs that train together; "
        "measured by default",
        **define,
    )
    flags.DEFINE_float(
        "slice",
        None,
        "seconds after which training of a table stops: it saves checkpoints and exits with status "
        "75; rerun the same command to resume",
        **define,
    )
    flags.DEFINE_bool(
        "thin",
        False,
        "after training a table, remove from WORKDIR what is not needed to resume: runs that have "
        "a record, and all but the newest checkpoint of the others",
        **define,
    )
    engines.define_flags(values)


def main(given: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Reproduces TARGET, a table or a figure of the paper, or makes one that goes beyond it.

    Not in the paper are survey, survey_curves, step_times, lab, and toys. Rerun the same command to
    resume. Figures 3 and 4 need the runs of table1, figure 5 those of table2, and survey_curves
    those of survey.
    """
    began = time.monotonic()
    [target] = arguments
    if target not in targets.ALL:
        raise UserError(f"unknown target {target!r}: {suggestion(target, targets.ALL)}")
    _check_flags(target, given)
    workdir = command.required_path(
        given["workdir"], "workdir=DIR", "name a directory for the runs"
    )
    results = command.optional_path(given["results"], "results") or workdir / "results"
    keep_compilations()
    given_to = (target, given["preset"], workdir, results)
    if target in targets.TABLES:
        return _table_as_given(targets.table(*given_to, _part(target, given)), given, began)
    with out_of_memory.explaining(advice="take a device with more"):
        print(targets.write(*given_to))
    return 0


def _check_flags(target: str, given: Mapping[str, Any]) -> None:
    """Checks that the target reads the flags that were given, and that they are in range."""
    for names, tables in (
        (("plan", "slice", "thin"), targets.TABLES),
        (("engine", "workers", "devices"), targets.TABLES),
        (("ray_address", "ray_cpus_per_run", "ray_gpus_per_run"), targets.TABLES),
        (("rows", "estimators", "seeds"), targets.IN_PARTS),
    ):
        for flag in names:
            if given[flag] and target not in tables:
                raise UserError(f"--{flag} is for {', '.join(tables)}: leave it out for {target}")
    if given["steps_per_second"] is not None and not given["plan"]:
        raise UserError("--steps_per_second is for --plan: leave it out, or give both")
    for flag in ("slice", "steps_per_second"):
        value = given[flag]
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{flag}={value:g}: give a finite number over 0")


def _part(target: str, given: Mapping[str, Any]) -> Part:
    """What to train of a table, refused where the table has no such row or estimator."""
    if target not in targets.IN_PARTS:
        return Part()
    preset = targets.preset_of(target, given["preset"])
    rows = _these("rows", given, preset.rows)
    for name in given["estimators"] or ():
        if name in estimators.names() and name not in preset.all_columns:
            raise UserError(
                f"--estimators={name}: --preset={preset.name} trains "
                f"{', '.join(preset.all_columns)} alone: take another preset"
            )
    these = _these("estimators", given, preset.all_columns)
    if given["seeds"] is not None and given["seeds"] > preset.seeds:
        raise UserError(
            f"--seeds={given['seeds']}: --preset={preset.name} has {preset.seeds} final runs of a "
            "cell: give no more, or leave it out"
        )
    return Part(rows, these, given["seeds"], together=engines.engine_of_flags(given)[0] == "vmap")


def _these(flag: str, given: Mapping[str, Any], valid: Sequence[str]) -> tuple[str, ...] | None:
    chosen = given[flag]
    refuse_empty(flag, chosen, valid)
    for name in chosen or ():
        if name not in valid:
            raise UserError(f"--{flag}={','.join(chosen)}: no {name!r}: {suggestion(name, valid)}")
    return tuple(chosen) if chosen else None


def _table_as_given(table: Table1 | Table2, given: Mapping[str, Any], began: float) -> int:
    """Plans or trains a table as the flags say.

    Args:
      table: table to plan or train.
      given: values of the flags.
      began: when the command began, by `time.monotonic()`.
    """
    engine, options = engines.engine_of_flags(given)
    seconds = given["slice"]
    if given["plan"]:
        table.refuse_another()
        speed = given["steps_per_second"]
        planned = plan_report.text(
            table, engine, options, steps_per_second=speed, slice_seconds=seconds
        )
        print(planned, end="")
        return 0
    deadline = None if seconds is None else began + seconds
    return waves.train(table, engine, options, Slice(deadline, given["thin"]))


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags, takes="TARGET", choices=targets.ALL))
