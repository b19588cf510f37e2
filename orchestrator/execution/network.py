"""The network interface that gloo uses: the one with the address by which Ray knows this host."""

from __future__ import annotations

import os

import psutil

VARIABLE = "GLOO_SOCKET_IFNAME"


def interface_of(address: str) -> str | None:
    """Name of the interface with this address, None where no interface has it."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return name
    return None


def choose_interface() -> None:
    """Set gloo's interface for this process, unless it is set. Runs in a Ray worker, before its process group is created."""
    import ray.util

    if VARIABLE not in os.environ and (name := interface_of(ray.util.get_node_ip_address())):
        os.environ[VARIABLE] = name
