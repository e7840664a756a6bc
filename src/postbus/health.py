"""Shows whether worker processes do their work: as a file, and over HTTP.  Is told by the supervisor, asks nobody.

It lives in the supervisor, so that a worker whose event loop is blocked is seen by someone who is not.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["HealthBoard"]

log = logging.getLogger("postbus.health")

# A worker reports every second; one that was silent for so long has an event loop that does not turn.
_SILENT = 5.0
# The supervisor itself shows the state every second.
_STALE = 15.0


class HealthBoard:
    """The newest state of every worker process.  Thread-safe."""

    def __init__(self, *, expected: int, file: str | None = None) -> None:
        """Know nothing yet.

        Args:
            expected: how many processes there should be.
            file: kept up to date while the workers live, and removed when they do not.
        """
        self._expected = expected
        self._file = None if file is None else Path(file)
        self._workers: Sequence[dict[str, Any]] = ()
        self._shown_at = time.monotonic()
        self._server: ThreadingHTTPServer | None = None

    def show(self, workers: Sequence[dict[str, Any]]) -> None:
        """Take the newest state; see `supervisor.Board`."""
        self._workers = tuple(workers)
        self._shown_at = time.monotonic()
        if self._file is not None:
            self._write(self._file)

    def report(self) -> dict[str, Any]:
        """What is known now: `live`, `ready`, and a record of each process."""
        ago = time.monotonic() - self._shown_at
        workers = [_judged(worker, ago) for worker in self._workers]
        live = bool(workers) and ago < _STALE and all(worker["live"] for worker in workers)
        ready = live and sum(1 for worker in workers if worker["ready"]) >= self._expected
        return {"live": live, "ready": ready, "workers": workers}

    def serve(self, host: str, port: int) -> int:
        """Answer /livez and /readyz from a thread; return the port.

        Raises:
            OSError: when the port cannot be had.
        """
        board = self

        class Answer(_Answer):
            report = staticmethod(board.report)

        self._server = ThreadingHTTPServer((host, port), Answer)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="postbus-health", daemon=True).start()
        found: int = self._server.server_address[1]
        log.info("health at http://%s:%d/livez and /readyz", host, found)
        return found

    def close(self) -> None:
        """Stop answering, and remove the file."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _write(self, file: Path) -> None:
        report = self.report()
        try:
            if not report["live"]:
                file.unlink(missing_ok=True)
                return
            fresh = file.with_name(f"{file.name}.{os.getpid()}")
            fresh.write_text(json.dumps(report) + "\n", "utf-8")
            fresh.replace(file)
        except OSError as error:
            log.warning("cannot write the health file: %s", error)


def _judged(worker: dict[str, Any], ago: float) -> dict[str, Any]:
    """One process: is it live, is it ready?  One that has just been started has nothing to say yet."""
    known = {name: value for name, value in worker.items() if name not in ("heard_ago", "starting")}
    if worker.get("pid") is None or worker.get("failed"):
        return {**known, "live": False, "ready": False}
    if not worker["ready"]:
        return {**known, "live": bool(worker.get("starting")) or worker.get("state") == "draining"}
    silent = round(worker.get("heard_ago", 0.0) + ago, 3)
    turns = silent < _SILENT
    healthy = bool(worker.get("healthy", True)) or worker.get("state") == "draining"
    ready = turns and worker.get("state") == "running"
    return {**known, "silent_for": silent, "live": turns and healthy, "ready": ready}


class _Answer(BaseHTTPRequestHandler):
    """One request."""

    timeout = 5
    server_version = "postbus"
    sys_version = ""

    @staticmethod
    def report() -> dict[str, Any]:
        """Set by the board."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer 200 when it is so, 503 when it is not."""
        wanted = {"/livez": "live", "/health": "live", "/healthz": "live", "/readyz": "ready"}.get(
            self.path.partition("?")[0]
        )
        report = self.report()
        if wanted is None:
            self._send(404, {"error": "expected /livez or /readyz"})
        else:
            self._send(200 if report[wanted] else 503, report)

    do_HEAD = do_GET  # noqa: N815 - the base class's word

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode() + b"\n"
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """A probe every second is no news."""
