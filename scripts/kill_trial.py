"""Kills runs and sweeps at random moments, and checks that nothing is lost by it.

  python -m scripts.kill_trial --kills=200 [--kinds=train,process] [--minutes=60] [--workdir=DIR]

Each kind is trained once undisturbed. Then, in another directory, it is started and killed by
SIGKILL again and again until it gets to its end, and then once more from the beginning, until all
kills are spent. Half of them come at a random time, so also while modules are imported and programs
compiled, and half at a random step. Of a sweep, in turn all processes are killed or only its own.

At each end the results, the lines of `metrics.jsonl` and the TensorBoard events must be those of
the undisturbed directory to the bit, times aside. Under `vmap`, where the runs that a kill left
unfinished are fewer than those trained together undisturbed, numbers are compared to 1e-5.
"""

import contextlib
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import command
from experiments.errors import UserError, suggestion
from experiments.files import path_of, scratch
from experiments.training import records
from experiments.training.rundir import METRICS
from scripts.kill_kinds import KINDS, Child
from scripts.run_numbers import differences, numbers

_PATIENCE_SECONDS = 900.0


class Trial:
    """A kind that is killed, with the numbers that it has to come to.

    Args:
      name: name of the kind.
      directory: where its files go.
      moments: the source of the random moments.
    """

    def __init__(self, name: str, directory: Path, moments: random.Random) -> None:
        self.kind, self.moments = KINDS[name], moments
        self.directory = directory / "killed"
        self.kills = self.ends = 0
        self.wrong: list[str] = []
        if directory.exists():  # its runs would be finished, and every kill would hit the start
            raise UserError(f"{directory} is in use: name a new --workdir")
        began = time.monotonic()
        self._finish(directory / "undisturbed")
        self.seconds = time.monotonic() - began
        self.expected = numbers(directory / "undisturbed")

    def kill(self) -> None:
        """Starts the command and kills it; checks the numbers if it came to its end first."""
        child = self.kind.start(self.directory)
        with _stopped_with_this_process(child):
            if self.moments.random() < 0.5:
                _wait(child, self.moments.uniform(0, self.seconds))
            else:
                self._wait_for_steps(child)
        if child.ended():
            self._check(child)
            return
        self.kills += 1
        child.kill(alone=self.kind.module == "sweep" and self.kills % 2 == 0)

    def finish(self) -> None:
        """Lets the command come to its end, and checks the numbers."""
        self._check(self._finish(self.directory))

    def _wait_for_steps(self, child: Child) -> None:
        goal = _steps(self.directory) + self.moments.randrange(1, 80)
        end = time.monotonic() + 2 * self.seconds
        while not child.ended() and _steps(self.directory) < goal and time.monotonic() < end:
            time.sleep(0.02)
        _wait(child, self.moments.uniform(0, 0.3))

    def _finish(self, workdir: Path) -> Child:
        child = self.kind.start(workdir)
        with _stopped_with_this_process(child):
            _wait(child, _PATIENCE_SECONDS)
        if not child.ended():
            child.kill()
            raise UserError(f"{workdir} is not done after {_PATIENCE_SECONDS:.0f} s")
        if workdir.name == "undisturbed" and (status := child.status()):
            raise UserError(f"{workdir}: status {status}: {child.said()}")
        return child

    def _check(self, child: Child) -> None:
        """Compares the directory of a command that has ended, and begins anew."""
        self.ends += 1
        if status := child.status():
            self.wrong.append(f"status {status}: {child.said()}")
        self.wrong += differences(self.expected, numbers(self.directory))
        shutil.rmtree(self.directory)


@contextlib.contextmanager
def _stopped_with_this_process(child: Child) -> Iterator[None]:
    """Kills the command if the block is interrupted: Ctrl-C does not reach its process group."""
    try:
        yield
    except BaseException:
        if not child.ended():
            child.kill()
        raise


def _steps(workdir: Path) -> int:
    """The steps that all runs below a directory have logged."""
    # Not by walking the tree: checkpoints are moved and removed meanwhile.
    paths = (*workdir.glob(METRICS), *workdir.glob(f"runs/*/{METRICS}"))
    logs = (records.read_metrics(path) for path in paths)
    return sum(rows[-1]["step"] for rows in logs if rows)


def _wait(child: Child, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not child.ended() and time.monotonic() < end:
        time.sleep(0.02)


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_integer("kills", 200, "total number of kills", lower_bound=1, **define)
    default = [name for name in KINDS if name != "ray"]
    flags.DEFINE_list("kinds", default, f"what to kill, of {', '.join(KINDS)}", **define)
    flags.DEFINE_float(
        "minutes", None, "stop killing after this many minutes", lower_bound=0, **define
    )
    flags.DEFINE_integer("seed", 0, "seed of the random moments", **define)
    flags.DEFINE_string(
        "workdir", None, "directory to keep the files in; temporary by default", **define
    )


def main(given: Mapping[str, Any]) -> int:
    """Kills runs and sweeps at random moments, and checks that nothing is lost by it."""
    command.required(given["kinds"], "kinds=KIND,...", f"name some of {', '.join(KINDS)}")
    for name in given["kinds"]:
        if name not in KINDS:
            raise UserError(f"--kinds={name}: {suggestion(name, KINDS)}")
    if given["workdir"]:
        return _run(given, path_of(given["workdir"], "--workdir").absolute())
    with scratch() as directory:
        return _run(given, directory)


def _run(given: Mapping[str, Any], directory: Path) -> int:
    moments = random.Random(given["seed"])
    trials = {name: Trial(name, directory / name, moments) for name in given["kinds"]}
    minutes = math.inf if given["minutes"] is None else given["minutes"]
    end = time.monotonic() + 60 * minutes
    order = list(trials.values())
    kills = 0
    with tqdm(total=given["kills"], unit="kill", disable=None) as bar:
        while kills < given["kills"] and time.monotonic() < end:
            min(order, key=lambda trial: trial.kills).kill()
            before, kills = kills, sum(trial.kills for trial in order)
            bar.update(kills - before)  # which counts nothing where it is not shown
    for name, trial in trials.items():
        trial.finish()
        print(f"{name}: {trial.kills} kills, {trial.ends} ends, {len(trial.wrong)} differences")
        for line in trial.wrong:
            print(f"  {line}")
    ends = sum(trial.ends for trial in order)
    wrong = sum(len(trial.wrong) for trial in order)
    print(f"{kills} kills: {ends} runs and sweeps came to their ends, with {wrong} differences")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
