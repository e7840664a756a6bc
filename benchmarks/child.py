"""One sample in a process of its own, so that no contender inherits another's heap, caches or threads.

Reads a `Task` from stdin and writes an `Answer` as the last line of stdout.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from .task import Answer, Measure, Task

__all__ = ["answer", "ask", "start"]

ROOT = Path(__file__).resolve().parent.parent
_ANSWER = msgspec.json.Decoder(Answer)


def answer(task: Task) -> Answer:
    """Run the task here."""
    module, _, function = task.run.partition(":")
    try:
        run = cast(Callable[[Task], Measure], getattr(importlib.import_module(module), function))
    except ModuleNotFoundError as error:
        return Answer(missing=error.name)
    gc.collect()
    try:
        return Answer(measure=run(task))
    except Exception:  # noqa: BLE001  # whatever a contender raises is its result
        return Answer(error=traceback.format_exc())


def start(task: Task) -> subprocess.Popen[bytes]:
    """Start the task in a child of its own group; `ask` waits for the answer."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.child"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(task))
    child.stdin.close()
    child.stdin = None  # else communicate() would flush what is closed
    return child


def ask(child: subprocess.Popen[bytes], timeout: float) -> Answer:
    """Wait for a started child's answer; end its whole group when it takes too long."""
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return Answer(error=f"no answer within {timeout:g} s")
    last = out.strip().rpartition(b"\n")[2]
    try:
        return _ANSWER.decode(last)
    except msgspec.DecodeError:
        return Answer(error=f"exit code {child.returncode}: {err.decode(errors='replace')[-2000:]}")


def main() -> None:
    """Answer the task on stdin."""
    said = answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
    sys.stdout.write("\n" + msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)  # a peer's daemon threads and exit hooks are not part of what is measured


if __name__ == "__main__":
    main()
