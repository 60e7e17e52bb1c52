"""What several processes of a run tell one another, with the others made up."""

import signal

import jax
import numpy as np

from experiments.errors import DivergedError, UserError
from experiments.training import hosts
from experiments.training.signals import Stop


def test_a_signal_that_comes_while_processes_agree_is_not_lost(monkeypatch):
    stop = Stop()

    def gathered(_mine):
        stop.signum = signal.SIGTERM  # meanwhile
        return np.zeros(2, np.int32)

    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(hosts, "_gathered", gathered)
    assert not hosts.agreed(stop)  # in no process
    assert stop.signum == signal.SIGTERM
    monkeypatch.setattr(hosts, "_gathered", lambda _mine: np.array([0, signal.SIGINT]))
    assert hosts.agreed(stop)


def test_an_error_of_one_process_alone_ends_it_at_once(monkeypatch, capsys):
    left = []
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(hosts.os, "_exit", left.append)
    common = hosts._common(UserError("of all"))
    hosts.leave_alone(common)
    hosts.leave_alone(DivergedError("of all, too"))
    assert not left
    hosts.leave_alone(UserError("mine"))
    assert left == [2]
    assert capsys.readouterr().err == "error: mine\n"
    hosts.leave_alone(jax.errors.JaxRuntimeError("closed"))
    assert left == [2, 1]
    assert "another process of this run is gone (closed)" in capsys.readouterr().err
