"""A network of the test's own, whose packets can be dropped without a word."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType
from typing import Self


class Cable:
    """A network namespace with one address, joined to this machine by a pair of virtual interfaces; needs root."""

    def __init__(self) -> None:
        number = os.getpid() % 16_000
        self.namespace = f"clead-{number}"
        self._here, self._there = f"clead{number}a", f"clead{number}b"
        network = f"10.{200 + number // 4096 % 50}.{number // 16 % 256}.{number % 16 * 16}".rpartition(".")
        first = int(network[2])
        self._own = f"{network[0]}.{first + 1}"
        self.address = f"{network[0]}.{first + 2}"

    @property
    def prefix(self) -> list[str]:
        """What a command starts with that shall run at the other end."""
        return [_program("ip"), "netns", "exec", self.namespace]

    def __enter__(self) -> Self:
        assert os.geteuid() == 0, "packets are dropped in a network namespace, which takes root: run this test as root"
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", self.namespace)
        _ip("address", "add", f"{self._own}/28", "dev", self._here)
        _ip("link", "set", self._here, "up")
        for command in (
            ["address", "add", f"{self.address}/28", "dev", self._there],
            ["link", "set", self._there, "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", self.namespace, *command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _ip("netns", "delete", self.namespace)

    def cut(self) -> None:
        """From now on no packet arrives, in either direction, and nobody is told."""
        for chain in ("INPUT", "OUTPUT"):
            self._tables("--append", chain, "!", "--in-interface" if chain == "INPUT" else "--out-interface", "lo")

    def mend(self) -> None:
        subprocess.run([*self.prefix, _program("iptables"), "--flush"], check=True)

    def _tables(self, *rule: str) -> None:
        subprocess.run([*self.prefix, _program("iptables"), *rule, "--jump", "DROP"], check=True)


def _ip(*arguments: str) -> None:
    subprocess.run([_program("ip"), *arguments], check=True)


def _program(name: str) -> str:
    """System administration programs are not on everybody's path."""
    for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise AssertionError(f"{name} is not installed; run tests/system/install-servers")
