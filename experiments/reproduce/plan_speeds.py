"""How fast the groups of a plan train: by estimates of some of their programs, or as stated."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from experiments.reproduce.plan import Group
from experiments.sweeps.engines import Options
from experiments.training.estimates import Estimate, estimate
from experiments.training.placement import Placement

# After this time, no more programs are traced, compiled and timed; of a slice, after this share.
MOST_SECONDS, MOST_OF_A_SLICE = 60.0, 0.05
MOST_PROGRAMS = 12  # that are estimated if the speed is stated: as many as the report shows


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


class Speeds(NamedTuple):
    """How fast the groups of a plan train, by estimates of some of their programs.

    Attributes:
      programs: the programs of the plan, each with the first group that has it.
      found: the estimates, by program.
      stated: run-steps per second to assume for any group; None if they are measured.
    """

    programs: Mapping[Program, Group]
    found: Mapping[Program, Estimate]
    stated: float | None

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


def estimate_speeds(
    groups: Sequence[Group], options: Options, stated: float | None, slice_seconds: float | None
) -> Speeds:
    """Estimates programs of the groups one by one, and times them unless a speed is stated.

    One is timed in any case, and no more once `MOST_SECONDS` or the share of a slice have passed.

    Args:
      groups: groups of the plan, in the order in which they train.
      options: options of the engine.
      stated: run-steps per second to assume for any group; None measures.
      slice_seconds: seconds of a slice; None for no slices.
    """
    most = min(MOST_SECONDS, MOST_OF_A_SLICE * (slice_seconds or math.inf))
    programs = {program_of(group): group for group in reversed(groups)}
    found: dict[Program, Estimate] = {}
    began = time.monotonic()
    turns = _in_turn([program_of(group) for group in groups])
    for program in turns if stated is None else turns[:MOST_PROGRAMS]:
        if found and time.monotonic() - began >= most:
            break
        placement = Placement.of_runs(program.runs, options.devices)
        settings = programs[program].settings
        found[program] = estimate(settings, placement, timed=stated is None)
    return Speeds(programs, found, stated)


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
