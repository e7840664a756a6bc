"""Processes under a supervisor: what becomes of them when they crash, fail, hang, or are to be replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from running import alive

SOON = 30.0

SUPERVISOR = """
import json, sys
from postbus.supervisor import Supervisor
child, options = sys.argv[1], json.loads(sys.argv[2])
def command(descriptor, *, again):
    return [sys.executable, "-c", child, str(descriptor), str(int(again)), *sys.argv[3:]]
sys.exit(Supervisor(command, **options).run())
"""

CHILD = """
import json, os, signal, socket, sys, time
link, again, notes = socket.socket(fileno=int(sys.argv[1])), sys.argv[2] == "1", sys.argv[3]
def say(**report):
    link.sendall(json.dumps(report).encode() + b"\\n")
def note(what):
    file = os.open(notes, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(file, f"{what} {os.getpid()}\\n".encode())
    os.close(file)
def count(what):
    with open(notes) as file:
        return sum(1 for line in file if line.split()[0] == what)
def until_told():
    try:
        word = link.makefile().readline().strip()
    except ConnectionError:  # the supervisor died before it read everything
        word = ""
    note(word or "gone")
    return word
signal.signal(signal.SIGINT, signal.SIG_IGN)
note("started")
"""

LASTING = CHILD + "say(ready=True, grace=5)\nnote('ready')\nuntil_told()\n"


class Supervised:
    """A supervisor in a process of its own, over children made of a few lines."""

    def __init__(self, folder: Path, child: str, **options: object) -> None:
        self.notes = folder / "notes"
        self.notes.touch()
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, child, json.dumps(options), str(self.notes)], stderr=log
            )

    def noted(self, what: str) -> list[int]:
        """The pids that noted this, in order."""
        lines = (line.split() for line in self.notes.read_text().splitlines())
        return [int(pid) for word, pid in lines if word == what]

    def words(self) -> list[str]:
        """Everything that was noted, in order."""
        return [line.split()[0] for line in self.notes.read_text().splitlines()]

    def until(self, so: Callable[[], object]) -> None:
        """Wait until something is so."""
        end = time.monotonic() + SOON
        while not so():
            assert time.monotonic() < end, self.notes.read_text()
            time.sleep(0.005)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ends(self) -> int:
        """Wait for the end, and see that nobody is left."""
        code = self.process.wait(SOON)
        assert [pid for pid in self.noted("started") if alive(pid)] == []
        return code


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    made: list[Supervised] = []

    def make(child: str, **options: object) -> Supervised:
        made.append(Supervised(tmp_path, child, **options))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()
        for pid in one.noted("started"):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_child_that_crashes_is_replaced(supervise: Supervise) -> None:
    over = supervise(CHILD + "say(ready=True)\nif not again: os.kill(os.getpid(), 9)\nnote('again')\nuntil_told()\n")
    over.until(lambda: over.noted("again"))
    over.tell(signal.SIGTERM)
    assert over.ends() == 0
    assert len(over.noted("started")) == 2


def test_a_child_that_dies_before_it_is_ready_is_given_up_after_five_tries(supervise: Supervise) -> None:
    over = supervise(CHILD + "os.kill(os.getpid(), 9)\n")
    assert over.ends() == 1
    assert len(over.noted("started")) == 5


@pytest.mark.parametrize("code", [2, 3])
def test_a_child_that_says_why_it_cannot_start_is_believed_at_once(supervise: Supervise, code: int) -> None:
    over = supervise(CHILD + f"sys.exit({code})\n")
    assert over.ends() == code
    assert len(over.noted("started")) == 1


def test_a_patient_supervisor_waits_for_a_change_instead_of_giving_up(supervise: Supervise) -> None:
    child = CHILD + "if count('started') == 1: sys.exit(2)\nsay(ready=True)\nnote('ready')\nuntil_told()\n"
    over = supervise(child, patient=True)
    over.until(lambda: "waiting for a change" in over.log.read_text())
    over.tell(signal.SIGHUP)
    over.until(lambda: over.noted("ready"))
    over.tell(signal.SIGTERM)
    assert over.ends() == 0


def test_a_child_that_was_ready_and_cannot_start_again_is_tried_again(supervise: Supervise) -> None:
    over = supervise(
        CHILD + "n = count('started')\nif n == 2: sys.exit(3)\nsay(ready=True)\nnote('ready')\n"
        "if n == 1: os._exit(1)\nuntil_told()\n"
    )
    over.until(lambda: len(over.noted("ready")) == 2)
    over.tell(signal.SIGTERM)
    assert over.ends() == 0


def test_a_child_that_cannot_go_on_ends_them_all(supervise: Supervise) -> None:
    over = supervise(
        CHILD + "say(ready=True)\nnote('ready')\n"
        "while count('ready') < 3: time.sleep(0.01)\n"
        "if os.getpid() == min(int(line.split()[1]) for line in open(notes)):\n"
        "    say(failed='the file is gone', fatal=True)\n    sys.exit(1)\nuntil_told()\n",
        processes=3,
    )
    assert over.ends() == 1
    assert len(over.noted("stop")) == 2
    assert len(over.noted("started")) == 3


def test_a_child_that_fails_again_and_again_is_given_up(supervise: Supervise) -> None:
    over = supervise(CHILD + "say(ready=True)\nsay(failed='stalled')\nsys.exit(1)\n")
    assert over.ends() == 1
    assert len(over.noted("started")) == 5


def test_children_that_are_done_are_not_replaced(supervise: Supervise) -> None:
    over = supervise(CHILD + "say(ready=True)\n", processes=2, until_done=True)
    assert over.ends() == 0
    assert len(over.noted("started")) == 2


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("os._exit(5)\n", 5), ("os._exit(1)\n", 1)])
def test_the_exit_code_says_how_the_children_ended(supervise: Supervise, ending: str, code: int) -> None:
    over = supervise(LASTING + ending)
    over.until(lambda: over.noted("ready"))
    over.tell(signal.SIGINT)
    assert over.ends() == code


def test_a_child_that_does_not_end_is_killed_when_the_grace_is_over(supervise: Supervise) -> None:
    over = supervise(CHILD + "say(ready=True, grace=0.1)\nnote('ready')\nuntil_told()\ntime.sleep(600)\n")
    over.until(lambda: over.noted("ready"))
    over.tell(signal.SIGTERM)
    assert over.ends() == 5


def test_the_second_signal_ends_at_once(supervise: Supervise) -> None:
    over = supervise(CHILD + "say(ready=True, grace=500)\nnote('ready')\nuntil_told()\ntime.sleep(600)\n")
    over.until(lambda: over.noted("ready"))
    over.tell(signal.SIGTERM)
    over.until(lambda: over.noted("stop"))
    time.sleep(0.1)  # signals closer together than this are one wish
    over.tell(signal.SIGTERM)
    assert over.ends() == 5


def test_a_child_that_is_not_ready_is_not_waited_for(supervise: Supervise) -> None:
    over = supervise(CHILD + "time.sleep(600)\n")
    over.until(lambda: over.noted("started"))
    over.tell(signal.SIGTERM)
    assert over.ends() == 0


def test_children_learn_that_their_supervisor_was_killed(supervise: Supervise) -> None:
    over = supervise(LASTING, processes=2)
    over.until(lambda: len(over.noted("ready")) == 2)
    over.process.kill()
    over.until(lambda: len(over.noted("gone")) == 2)


def test_a_graceful_restart_replaces_one_after_the_other_each_when_its_successor_is_ready(supervise: Supervise) -> None:
    over = supervise(CHILD + "note('ready')\nsay(ready=True)\nuntil_told()\n", processes=2)
    over.until(lambda: len(over.noted("ready")) == 2)
    over.tell(signal.SIGHUP)
    over.until(lambda: len(over.noted("stop")) == 2)
    first, second = over.noted("ready")[:2], over.noted("ready")[2:]
    assert set(over.noted("stop")) == set(first)
    assert over.words()[4:] == ["started", "ready", "stop", "started", "ready", "stop"]
    assert all(alive(pid) for pid in second)
    over.tell(signal.SIGTERM)
    assert over.ends() == 0


def test_a_successor_that_cannot_start_leaves_the_old_one_at_work(supervise: Supervise) -> None:
    over = supervise(CHILD + "if count('started') == 2: sys.exit(2)\nsay(ready=True)\nnote('ready')\nuntil_told()\n")
    over.until(lambda: over.noted("ready"))
    over.tell(signal.SIGHUP)
    over.until(lambda: len(over.noted("started")) == 2 and not alive(over.noted("started")[1]))
    assert alive(over.noted("ready")[0])
    over.tell(signal.SIGTERM)
    assert over.ends() == 0
    assert over.noted("stop") == over.noted("ready")
