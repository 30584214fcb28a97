"""A Prefect server of a test's own, on loopback, and programs that work with it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from ingestions import ROOT

PATIENCE_S = 300.0  # what takes seconds may take minutes on a machine that has much else to do


class PrefectServer:
    """Runs until `stop`, with what was started beside it; everything it keeps lies in `home`."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        self.log = home / "processes.log"
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT / "tests" / "site_extractor"),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        wait_until(lambda: _answers(f"{self.api}/health"))

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
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    # -- over HTTP what the command needs two seconds of CPU for

    def ask(self, path: str, content: object = None) -> Any:
        """The server's answer to a GET, or to a POST of some content."""
        body = None if content is None else json.dumps(content).encode()
        request = Request(f"{self.api}/{path}", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read() or "null")

    def begin(self, deployment: str, parameters: Mapping[str, object]) -> str:
        """Ask for a run of `flow/deployment`; its id."""
        found = self.ask(f"deployments/name/{deployment}")
        created = self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(created["id"])

    def state(self, run_id: str) -> str:
        """Such as RUNNING or COMPLETED."""
        return str(self.ask(f"flow_runs/{run_id}")["state"]["type"])

    def running(self, run_id: str) -> bool:
        return self.state(run_id) in ("RUNNING", "PENDING", "SCHEDULED", "CANCELLING")

    def outcome(self, deployment: str, parameters: Mapping[str, object]) -> str:
        """The last state of a run, after its end."""
        run_id = self.begin(deployment, parameters)
        wait_until(lambda: not self.running(run_id))
        return self.state(run_id)

    def artifacts(self) -> set[str]:
        return {each["key"] for each in self.ask("artifacts/latest/filter", {})}

    def stop(self) -> None:
        """At once: nothing of what they keep is wanted."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        urlopen(url, timeout=5).close()
    except (URLError, OSError):
        return False
    return True


def wait_until(fact: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.3)
