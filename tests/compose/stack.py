"""docker-compose.yml as a project of its own, for the length of a ``with`` block."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port, wait_for

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 3000.0
UP_SECONDS = 900.0
FINAL = {"succeeded", "failed", "cancelled"}


@dataclass
class Stack:
    """Runs `docker compose` on the project, and talks to its API on 127.0.0.1."""

    folder: Path
    """Of the empty .env file: that of the checkout, if there is one, is not the tests'."""
    project: str = field(default_factory=lambda: f"clead-test-{uuid.uuid4().hex[:8]}")
    ports: dict[str, str] = field(
        default_factory=lambda: {
            f"CLEAD_{name}": str(free_port()) for name in ("PORT", "FLOWER_PORT", "PROMETHEUS_PORT")
        }
    )
    token: str = ""

    def compose(self, *arguments: str, check: bool = True, seconds: float = UP_SECONDS, **variables: str) -> str:
        """What `docker compose ARGUMENTS` prints; if success is not checked, after a line with the exit status."""
        done = self._run(arguments, variables, seconds=seconds, text=True)
        if check:
            assert done.returncode == 0, f"{arguments}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}\n{self.tail()}"
            return str(done.stdout)
        return f"{done.returncode}\n{done.stdout}{done.stderr}"

    def pipe(self, *arguments: str, input: Path | None = None, output: Path | None = None) -> None:
        """`docker compose ARGUMENTS` with bytes from a file, or into one."""
        done = self._run(arguments, {}, seconds=UP_SECONDS, input=input.read_bytes() if input else None)
        assert done.returncode == 0, f"{arguments}: {done.stderr.decode()}"
        if output is not None:
            output.write_bytes(done.stdout)

    def _run(
        self, arguments: Sequence[str], variables: Mapping[str, str], *, seconds: float, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        env_file = self.folder / "env"
        env_file.touch()
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(ROOT / "tests" / "compose" / "fast.yml")]
        command = ["docker", "compose", "-p", self.project, "--env-file", str(env_file), *files, *arguments]
        ours = ("CLEAD_", "COMPOSE_", "POSTGRES_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment |= self.ports | dict(variables)
        return subprocess.run(command, capture_output=True, env=environment, timeout=seconds, **options)

    def up(self, *arguments: str, **variables: str) -> None:
        self.compose(*arguments, "up", "-d", "--wait", "--no-build", **variables)

    def tail(self) -> str:
        """The last lines of every service's log."""
        command = ["docker", "compose", "-p", self.project, "logs", "--no-color", "--tail", "25"]
        return subprocess.run(command, capture_output=True, text=True).stdout

    def logs(self) -> str:
        return self.compose("--profile", "*", "logs", "--no-color")

    def container(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the service's container, one that has ended too."""
        found = self.compose("--profile", "*", "ps", "--all", "--quiet", service).split()
        assert len(found) == 1, (service, found)
        shown: list[dict[str, Any]] = json.loads(docker("inspect", found[0]))
        return shown[0]

    def crash(self, service: str) -> None:
        """SIGKILL to the container's first process, from outside of Docker's control; the restart policy answers."""
        before = self.container(service)
        kill = ["sh", "-c", f"kill -9 {before['State']['Pid']}"]
        docker("run", "--rm", "--pid", "host", "--user", "0", "--network", "none", before["Config"]["Image"], *kill)

        def again() -> bool:
            now = self.container(service)
            return bool(now["State"]["Running"]) and now["RestartCount"] > before["RestartCount"]

        wait_for(again, seconds=300, what=f"a new start of {service}")

    def sh(self, service: str, script: str, *, check: bool = True) -> str:
        return self.compose("exec", "-T", service, "sh", "-c", script, check=check)

    def make_token(self) -> None:
        command = ["clead", "token", "create", "--name", "me", "--scope", "admin"]
        self.token = self.compose("exec", "-T", "api", *command).strip()

    def http(self) -> httpx.Client:
        """A client of the API; a request waits for one that starts anew."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.ports['CLEAD_PORT']}",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=120,
        )

    def get(self, path: str) -> Any:
        """The answer's JSON; whatever is missing for the moment is waited for."""
        deadline = time.monotonic() + 300
        while True:
            try:
                with self.http() as client:
                    return client.get(path).raise_for_status().json()
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                assert time.monotonic() < deadline, f"{path}: {error}\n{self.tail()}"
                time.sleep(0.2)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        with self.http() as client:
            answer = client.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

    def wait_for_step(self, job_id: str, step: int) -> None:
        """Until the job has got as far as ``step``."""

        def reached() -> bool:
            job = self.get(f"/jobs/{job_id}")
            assert job["status"] not in FINAL, f"{job}\n{self.tail()}"
            progress = job["progress"] or {}
            return progress.get("unit") == "step" and progress["done"] >= step

        wait_for(reached, seconds=1200, what=f"step {step}")

    def wait(self, job_id: str, *, status: str = "succeeded") -> Any:
        """The job once it has ended, in this way."""
        wait_for(lambda: self.get(f"/jobs/{job_id}")["status"] in FINAL, seconds=1200, what=f"the end of {job_id}")
        job = self.get(f"/jobs/{job_id}")
        assert job["status"] == status, f"{job}\n{self.tail()}"
        return job


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """The image built and the services up; everything but the image is removed at the end, whatever happens."""
    made = Stack(folder)
    try:
        made.compose("build", seconds=BUILD_SECONDS)
        made.up()
        yield made
    finally:
        made.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "20")
