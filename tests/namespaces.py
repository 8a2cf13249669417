"""Hosts for tests: network namespaces on a bridge of their own, which the machine's other interfaces do not reach."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.servers import Site

SUBNET = "10.213.7.0/24"
CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def run(*command: str) -> str:
    """Output of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@dataclass
class Host:
    """One namespace with one address. What runs in it sees a network of its own."""

    name: str
    address: str
    link: str
    """The bridge's end of the cable, which lies in the namespace of the bridge."""
    bridge: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *command: str) -> list[str]:
        """``command``, to be run inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, cwd: Path
    ) -> subprocess.Popen[bytes]:
        """A process inside, in a process group of its own."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(*command),
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                process_group=0,
                cwd=cwd,
            )
        self.processes.append(process)
        return process

    def cut(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        run("ip", "-n", self.bridge, "link", "set", self.link, "nomaster")  # both ends still see a cable

    def mend(self) -> None:
        run("ip", "-n", self.bridge, "link", "set", self.link, "master", "lan")

    @property
    def site(self) -> Site:
        """For the servers of tests/servers.py."""
        return Site(self.address, tuple(self.command()), SUBNET)

    def call(self, function: Callable[[], T]) -> T:
        """The function's value, run in here: in a thread that enters the namespace, since a thread may."""
        with ThreadPoolExecutor(1, initializer=_enter, initargs=(self.name,)) as pool:
            return pool.submit(function).result()


def _enter(name: str) -> None:
    with Path(f"/run/netns/{name}").open() as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Network:
    """A bridge in a namespace of its own, and the hosts on it."""

    def __init__(self) -> None:
        assert os.geteuid() == 0 and shutil.which("ip"), "namespaces need root and iproute2"
        self._tag = secrets.token_hex(3)
        self.bridge = f"clead-{self._tag}-lan"
        self.hosts: list[Host] = []

    def host(self, name: str) -> Host:
        """A new host with the next address of the subnet."""
        number = len(self.hosts) + 1
        host = Host(f"clead-{self._tag}-{name}", f"10.213.7.{number}", f"port{number}", self.bridge)
        run("ip", "netns", "add", host.name)
        self.hosts.append(host)
        peer = ("type", "veth", "peer", "name", "eth0", "netns", host.name)
        run("ip", "-n", self.bridge, "link", "add", host.link, *peer)
        run("ip", "-n", self.bridge, "link", "set", host.link, "master", "lan", "up")
        run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", host.name, "link", "set", device, "up")
        return host

    def open(self) -> None:
        run("ip", "netns", "add", self.bridge)
        run("ip", "-n", self.bridge, "link", "add", "lan", "type", "bridge")
        run("ip", "-n", self.bridge, "link", "set", "lan", "up")

    def close(self) -> None:
        for host in self.hosts:
            for process in host.processes:
                if process.poll() is None:
                    os.killpg(process.pid, 9)
                    process.wait()
            subprocess.run(["ip", "netns", "delete", host.name], check=False)
        subprocess.run(["ip", "netns", "delete", self.bridge], check=False)


@contextmanager
def network() -> Iterator[Network]:
    """An empty network, taken down at the end with all that runs in it."""
    made = Network()
    try:
        made.open()
        yield made
    finally:
        made.close()
