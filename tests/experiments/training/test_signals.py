import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.training.signals import graceful_stop


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag(signum, capfd):
    with graceful_stop() as stop:
        assert not stop.requested
        assert stop.exit_status == 0
        os.kill(os.getpid(), signum)
        assert stop.requested
        assert stop.exit_status == 128 + signum
    assert "Ctrl-C once more quits" in capfd.readouterr().err


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_a_signal_interrupts(first):
    with graceful_stop() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_status == 128 + first


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
from experiments.training.signals import graceful_stop
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
