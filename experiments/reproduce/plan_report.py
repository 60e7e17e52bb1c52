"""The plan of a table in words: runs, groups, steps, memory, bytes to transfer, and minutes."""

import math
from collections.abc import Sequence

from experiments.data import cache_file
from experiments.reproduce import plan
from experiments.reproduce.plan import PlannedWave
from experiments.reproduce.plan_speeds import MOST_PROGRAMS, Speeds, estimate_speeds
from experiments.reproduce.table import Table
from experiments.settings import Settings
from experiments.sweeps.engines import Options
from experiments.training import backend, memory

_NOT_COUNTED = "not counted: evaluation, checkpoints, and what each slice compiles anew"
_MOST_WAVES = 12
# Of a typical record in `results/`: its settings, and a line of its curve.
_RECORD_BYTES, _LINE_BYTES = 3000, 200


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
    speeds = estimate_speeds(groups, options, steps_per_second, slice_seconds)
    total = sum(map(speeds.seconds, groups))
    devices = backend.local_devices()[: options.devices]
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
    shown = list(speeds.found.items())[:MOST_PROGRAMS]
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
