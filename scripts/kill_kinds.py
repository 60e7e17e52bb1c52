"""The commands that `scripts.kill_trial` kills."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from experiments.files import ROOT

_DIGITS = ("dataset=digits", "batch_size=20", "test_num_samples=5", "eval_batch_size=150")
_SBN = (
    *_DIGITS,
    "layers=(4,)",
    "num_steps=200",
    "log_every=10",
    "eval_every=20",
    "checkpoint_every=20",
    "steps_per_call=10",
)
_CONV = (
    *_DIGITS,
    "encoder=(4,4,4)",
    "decoder=(4,4,4)",
    "head=8",
    "style_dim=4",
    "labeled_batch_size=10",
    "num_steps=40",
    "log_every=5",
    "eval_every=10",
    "checkpoint_every=10",
)
_GRID = "--grid=learning_rate=1e-3,3e-2;seed=0,1"


class Child(NamedTuple):
    """A command that was started.

    Attributes:
      processes: in a process group of their own, which the first leads.
      log: the file of their stderr, which no pipe holds up.
    """

    processes: tuple[subprocess.Popen[bytes], ...]
    log: Path

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return all(process.poll() is not None for process in self.processes)

    def status(self) -> int:
        """The exit status; of several processes the first that is not 0."""
        return next((code for process in self.processes if (code := process.wait())), 0)

    def kill(self, *, alone: bool = False) -> None:
        """Kills all its processes, or the first alone."""
        leader = self.processes[0]
        leader.kill() if alone else os.killpg(leader.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def said(self) -> str:
        """The end of what it wrote to stderr."""
        return self.log.read_text(errors="replace").strip()[-500:]


class Kind(NamedTuple):
    """A command to kill.

    Attributes:
      module: name of a module of `experiments`.
      config: file in `configs/`.
      overrides: values of its keys.
      flags: other flags of the command.
      hosts: number of processes that train it together.
      devices: number of devices that the CPU simulates.
    """

    module: str
    config: str
    overrides: tuple[str, ...]
    flags: tuple[str, ...] = ()
    hosts: int = 1
    devices: int = 1

    def start(self, workdir: Path) -> Child:
        """Starts the command."""
        arguments = [f"--config={ROOT / 'configs' / self.config}", f"--workdir={workdir}"]
        arguments += [*self.flags, *(f"--config.{override}" for override in self.overrides)]
        log = workdir.with_name(f"{workdir.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
        if self.devices > 1:
            variables["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={self.devices}"
        processes: list[subprocess.Popen[bytes]] = []
        with log.open("wb") as stderr:
            for own in _joining(self.hosts):
                process = subprocess.Popen(
                    [sys.executable, "-m", f"experiments.{self.module}", *arguments, *own],
                    cwd=ROOT,
                    env=os.environ | variables,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    process_group=processes[0].pid if processes else 0,
                )
                processes.append(process)
        return Child(tuple(processes), log)


def _joining(hosts: int) -> list[list[str]]:
    """The flags by which each of several processes joins the others."""
    if hosts == 1:
        return [[]]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator=localhost:{port}", f"--num_processes={hosts}"]
    return [[*together, f"--process_id={index}"] for index in range(hosts)]


KINDS = {
    "train": Kind("train", "sbn.py", _SBN),
    "semi_supervised": Kind("train", "semi_supervised.py", _CONV),
    "devices": Kind("train", "sbn.py", _SBN, ("--devices=2",), devices=2),
    "hosts": Kind("train", "sbn.py", _SBN, hosts=2),
    "process": Kind("sweep", "sbn.py", _SBN, (_GRID, "--engine=process", "--workers=2")),
    "vmap": Kind("sweep", "sbn.py", _SBN, (_GRID, "--engine=vmap")),
    "ray": Kind("sweep", "sbn.py", _SBN, (_GRID, "--engine=ray", "--workers=2")),
}
