"""Hosts made of network namespaces on one machine: each has a loopback, an address and its own cable to a switch.

The network of the machine is not touched: the switch is a bridge in its own namespace. Names have a random suffix.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import which

IP = which("ip") or "/usr/sbin/ip"
RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A namespace that acts as a host for the processes in it."""

    namespace: str
    switch: str
    port: str  # the switch's end of its cable
    address: str

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command on this host."""
        return [IP, "netns", "exec", self.namespace, *command]

    def cut(self) -> None:
        """Unplug the cable: packets are lost without an error."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def reconnect(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self.switch, "link", "set", self.port, "up")


def missing() -> str:
    """Why hosts cannot be created on this machine; empty if they can."""
    name = f"vsprobe{secrets.token_hex(3)}"
    if not Path(IP).exists():
        return "no `ip` command: apt install iproute2"
    made = subprocess.run([IP, "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not permitted here: {made.stderr.strip()}"
    entered = subprocess.run([IP, "netns", "exec", name, "true"], capture_output=True, text=True, check=False)
    _ip("netns", "del", name)
    return f"a network namespace cannot be entered here: {entered.stderr.strip()}" if entered.returncode else ""


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """This number of hosts on one switch. They are removed with all their processes at the end."""
    token = secrets.token_hex(3)
    switch = f"vs{token}sw"
    made: list[Host] = []
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number in range(count):
            host = Host(namespace=f"vs{token}h{number}", switch=switch, port=f"port{number}", address=f"10.77.0.{number + 1}")
            made.append(host)
            _plug(host)
        yield made
    finally:
        for host in made:
            _end_processes(host.namespace)
            _ip("netns", "del", host.namespace, check=False)
        _ip("netns", "del", switch, check=False)


def _plug(host: Host) -> None:
    """A cable between the host and the switch. The interface has a name that libraries do not guess."""
    _ip("netns", "add", host.namespace)
    cable = ("type", "veth", "peer", "name", "lan0", "netns", host.namespace)
    _ip("-n", host.switch, "link", "add", host.port, *cable)
    _ip("-n", host.switch, "link", "set", host.port, "master", "bridge", "up")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "lan0")
    _ip("-n", host.namespace, "link", "set", "lan0", "up")
    _ip("-n", host.namespace, "link", "set", "lo", "up")


def _end_processes(namespace: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        pids = subprocess.run([IP, "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout.split()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), number)
        if not pids:
            return
        time.sleep(1)


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run([IP, *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
