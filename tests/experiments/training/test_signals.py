import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.training.signals import TIME_IS_UP, graceful_stop


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag(signum, capfd):
    with graceful_stop() as stop:
        assert not stop.requested
        assert stop.exit_status == 0
        os.kill(os.getpid(), signum)
        assert stop.requested
        assert stop.exit_status == 128 + signum
    assert "a second Ctrl-C quits" in capfd.readouterr().err


def test_a_deadline_sets_the_flag_and_a_signal_says_more():
    with graceful_stop(time.monotonic() + 600) as stop:
        assert (stop.requested, stop.exit_status) == (False, 0)
    with graceful_stop(time.monotonic()) as stop:
        assert (stop.requested, stop.exit_status) == (True, TIME_IS_UP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_status == 128 + signal.SIGTERM


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_a_signal_interrupts(first):
    with graceful_stop() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_status == 128 + first


def test_a_second_ctrl_c_goes_to_the_handler_from_before():
    """Which of a command is `experiments.leave`, that ends the process and raises nothing."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda signum, frame: seen.append(signum))
    try:
        with graceful_stop(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == []
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


# Waits, at the place that is named, for the Ctrl-C of the test.
WAITING = """
import sys, time
def wait():
    for _ in range(600):  # a signal that another thread takes does not wake this one
        time.sleep(0.1)
place = sys.argv.pop()
if place == "importing":
    class Finder:
        def find_spec(self, name, path, target=None):
            if name == "numpy":
                print("ready", file=sys.stderr, flush=True)
                wait()
    sys.meta_path.insert(0, Finder())
import runpy
sys.argv[0] = "-m"  # as while python -m looks for a module, and imports its package
import experiments
if place == "compiling":
    from experiments.training import compiled
    class Slow:
        def __init__(self, *_):
            print("ready", file=sys.stderr, flush=True)
            try:
                wait()
            except KeyboardInterrupt:  # swallowed, as a callback from C would
                wait()
    from experiments.training import run
    run.Compiled = Slow
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("place", "times"), [("importing", 2), ("compiling", 1)])
def test_ctrl_c_before_training_ends_a_command(tmp_path, place, times):
    root = Path(__file__).parents[3]
    flags = [f"--config={root / 'configs' / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}"]
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING, *flags, place],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr.readline() == "ready\n"
    for _ in range(times):
        child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "interrupted\n")


def test_a_package_that_is_only_imported_leaves_ctrl_c_alone():
    script = "import signal, experiments; print(signal.getsignal(signal.SIGINT).__name__)"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "default_int_handler\n"


def test_further_sigterms_change_nothing(capfd):
    with graceful_stop() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_status == 128 + signal.SIGTERM
    assert capfd.readouterr().err.count("stopping") == 1


def test_the_old_handlers_are_restored():
    def own(signum, frame):
        pass

    interrupt = signal.getsignal(signal.SIGINT)  # ignored in a background job
    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(RuntimeError), graceful_stop():
            assert signal.getsignal(signal.SIGTERM) is not own
            raise RuntimeError
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_the_flag_stays_false():
    seen = []

    def work():
        with graceful_stop() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


LOOP = """
import sys, time
from experiments.training.signals import TIME_IS_UP, graceful_stop
with graceful_stop() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saved", flush=True)
sys.exit(stop.exit_status)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_process_leaves_cleanly(signum):
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", LOOP],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signum)
    out, err = child.communicate(timeout=30)
    assert out == "saved\n"
    assert "Traceback" not in err
    assert child.returncode == 128 + signum
