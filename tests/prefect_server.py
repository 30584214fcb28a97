"""A Prefect server of a test's own, on loopback, and programs that work with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from ingestions import ROOT


class PrefectServer:
    """Runs until `stop`, with what was started beside it; everything it keeps lies in `home`."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        self.log = home / "processes.log"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT / "tests" / "site_extractor"),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/api/health"), seconds=120)

    def start(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A program of this environment, in a process group of its own."""
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)
        return process

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """The `prefect` command to its end."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("prefect")), *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def stop(self) -> None:
        running = [process for process in reversed(self._processes) if process.poll() is None]
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        urlopen(url, timeout=5).close()
    except (URLError, OSError):
        return False
    return True


def wait_until(fact: Callable[[], object], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.3)
