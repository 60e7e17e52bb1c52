"""The plan of a table in words: runs, groups, steps, memory, bytes to transfer, and minutes."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax

from experiments.data import cache_file
from experiments.reproduce import plan
from experiments.reproduce.plan import Group, PlannedWave
from experiments.reproduce.table import Table
from experiments.settings import Settings
from experiments.sweeps.engines import Options
from experiments.training import memory
from experiments.training.estimates import Estimate, estimate
from experiments.training.placement import Placement

# After this time, no more programs are traced, compiled and timed.
MOST_SECONDS = 60.0
_NOT_COUNTED = "not counted: evaluation, checkpoints, and what each slice compiles anew"
_MOST_WAVES = _MOST_PROGRAMS = 12
# Of a typical record in `results/`: its settings, and a line of its curve.
_RECORD_BYTES, _LINE_BYTES = 3000, 200


class Program(NamedTuple):
    """What decides how long a step of a group takes, and its memory.

    Attributes:
      model: the task and the latent variables.
      key: key of the program, whatever its numbers of steps and of samples of a bound.
      runs: number of runs that train together.
    """

    model: str
    key: str
    runs: int


class Speeds:
    """Estimates of some programs, from which those of all groups follow.

    No more are measured after `MOST_SECONDS`, but one is in any case.

    Args:
      groups: groups of the plan, in the order in which they train.
      options: options of the engine.
      stated: run-steps per second to assume for any group; None measures.
    """

    def __init__(
        self, groups: Sequence[Group], options: Options, stated: float | None = None
    ) -> None:
        self.stated = stated
        self.programs = {program_of(group): group for group in reversed(groups)}
        self.found: dict[Program, Estimate] = {}
        began = time.monotonic()
        turns = _in_turn([program_of(group) for group in groups])
        for program in turns if stated is None else turns[:_MOST_PROGRAMS]:
            if self.found and time.monotonic() - began >= MOST_SECONDS:
                break
            placement = Placement.of_runs(program.runs, options.devices)
            settings = self.programs[program].settings
            self.found[program] = estimate(settings, placement, timed=stated is None)

    def seconds(self, group: Group) -> float:
        """How long a group compiles and trains; NaN if no program could be timed."""
        if self.stated is not None:
            return group.runs * group.steps / self.stated
        program = program_of(group)
        timed = {other: found.speed for other, found in self.found.items() if found.speed}
        if not timed:
            return math.nan

        def distance(other: Program) -> tuple[bool, bool, int]:
            unlike = other.model != program.model, other.key != program.key
            return *unlike, abs(other.runs - program.runs)

        speed = timed[min(timed, key=distance)]
        return speed.compile_seconds + group.steps / speed.steps_per_second


def program_of(group: Group) -> Program:
    """The program of a group."""
    settings = group.settings
    alike = replace(settings, num_steps=1, test_num_samples=1, validation_num_samples=1)
    return Program(f"{settings.task}, {settings.latent}", alike.program_key(), group.runs)


def _in_turn(programs: Sequence[Program]) -> list[Program]:
    """Each program once: the first of every model, then the second of every model, and so on."""
    ranks: dict[str, int] = {}
    turns = []
    for program in dict.fromkeys(programs):
        ranks[program.model] = ranks.get(program.model, 0) + 1
        turns.append((ranks[program.model], program))
    return [program for _, program in sorted(turns, key=lambda turn: turn[0])]


def text(
    table: Table,
    engine: str,
    options: Options,
    *,
    steps_per_second: float | None = None,
    slice_seconds: float | None = None,
) -> str:
    """The plan of a table as text; nothing is trained for it.

    Args:
      table: table to plan.
      engine, options: engine that is to train it, with its options.
      steps_per_second: run-steps per second of any group, over all its runs; None measures.
      slice_seconds: seconds of a slice, to say how many slices it takes; None for no slices.
    """
    waves = plan.waves(table, engine, options)
    groups = [group for wave in waves for group in wave.groups]
    speeds = Speeds(groups, options, steps_per_second)
    total = sum(map(speeds.seconds, groups))
    devices = jax.local_devices()[: options.devices]
    held = memory.device_memory(len(devices))
    title = (
        f"plan of {table.name}, --preset={table.preset.name}, by --engine={engine} on "
        f"{len(devices)} x {devices[0].device_kind}" + (f" with {_size(held)}" if held else "")
    )
    lines = [
        title,
        "",
        *_aligned(_wave_rows(waves, speeds)),
        "",
    ]
    if groups:
        lines += [*_aligned(_program_rows(speeds)), ""]
        alone = "" if engine == "vmap" else ", one run after another"
        lines += [f"minutes: {_minutes(total)}{alone}, {_how(speeds)}", _NOT_COUNTED]
        if slice_seconds is not None:
            slices = total / slice_seconds
            lines.append(f"slices: at least {slices:.1f}, of {slice_seconds:g} s")
        lines += _bytes_lines(table, waves, speeds)
    else:
        lines.append("nothing to train")
    return "\n".join(lines) + "\n"


def _wave_rows(waves: Sequence[PlannedWave], speeds: Speeds) -> list[list[str]]:
    """A row for each wave that is not done, up to some; those that are in one, and the total."""
    done = [wave for wave in waves if not wave.left]
    going = [wave for wave in waves if wave.left]
    shown, rest = going[:_MOST_WAVES], going[_MOST_WAVES:]
    rows = [["wave", "done", "failed", "to train", "groups", "run-steps", "minutes"]]

    def add(name: str, those: Sequence[PlannedWave]) -> None:
        groups = [group for wave in those for group in wave.groups]
        numbers = [sum(wave.done for wave in those), sum(wave.failed for wave in those)]
        numbers += [sum(len(wave.left) for wave in those), len(groups)]
        numbers.append(sum(wave.steps for wave in those))
        seconds = sum(map(speeds.seconds, groups))
        rows.append([name, *(f"{number:,}" for number in numbers), _minutes(seconds)])

    if any(wave.done or wave.failed for wave in done):
        add("waves before", done)
    for wave in shown:
        add(wave.name, [wave])
    if rest:
        add(f"and {len(rest)} more waves", rest)
    add("all", waves)
    return rows


def _program_rows(speeds: Speeds) -> list[list[str]]:
    rows = [["program", "runs together", "memory", "checkpoints", "run-steps/s", "compiled in"]]
    shown = list(speeds.found.items())[:_MOST_PROGRAMS]
    for program, found in shown:
        settings = speeds.programs[program].settings
        name = f"{program.model}, {settings.estimator.name}"
        cells = [name, f"{program.runs}", _size(found.memory), _size(program.runs * found.state)]
        if found.speed is None:
            rows.append([*cells, "", ""])
        else:
            steps = f"{found.speed.steps_per_second * program.runs:,.0f}"
            rows.append([*cells, steps, f"{found.speed.compile_seconds:.1f} s"])
    if left := len(speeds.programs) - len(shown):
        rows.append([f"and {left} more programs", "", "", "", "", ""])
    return rows


def _how(speeds: Speeds) -> str:
    if speeds.stated is not None:
        return f"at the {speeds.stated:g} run-steps a second of --steps_per_second"
    timed = sum(found.speed is not None for found in speeds.found.values())
    if not timed:
        return "as no program could be timed: give --steps_per_second"
    if timed == len(speeds.programs):
        return "by a call of each program, compiled and timed here"
    return (
        f"by a call of {timed} of {len(speeds.programs)} programs, compiled and timed here; the "
        "others are taken to be as fast as the most similar of those"
    )


def _bytes_lines(table: Table, waves: Sequence[PlannedWave], speeds: Speeds) -> list[str]:
    left = [job.settings for wave in waves for job in wave.left]
    names = sorted({settings.dataset for settings in left})
    sets = [found for name in names if (found := cache_file(name))]
    files = ", ".join(f"{path} ({_size(size)})" for path, size in sets)
    records = sum(map(_record_bytes, left))
    states = [found.state * program.runs for program, found in speeds.found.items()]
    held = table.runs.directory
    now = sum(path.stat().st_size for path in held.rglob("*") if path.is_file())
    least = "about" if len(speeds.found) == len(speeds.programs) else "at least"
    both = (
        f"in and out of a slice: {least} {_size(max(states))} of checkpoints, if a group is under "
        f"way and --thin is given; {held} holds {_size(now)} now"
    )
    return [
        f"in: {files or 'no dataset, as digits are bundled'}",
        f"out: {len(left)} records as JSON, about {_size(records)}",
        both,
    ]


def _record_bytes(settings: Settings) -> int:
    return _RECORD_BYTES + _LINE_BYTES * (settings.num_steps // settings.eval_every + 1)


def _minutes(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    return f"{seconds / 60:,.1f}" if seconds >= 60 else f"{seconds / 60:.2f}"


def _size(number: int) -> str:
    if number < 2**20:
        return f"{number / 2**10:.1f} KiB"
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return lines
