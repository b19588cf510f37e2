"""Which network interface gloo talks through: the one whose address Ray knows this host by.

Left alone, gloo takes the address that the host's own name resolves to, which is a loopback on many Linux installations
and on hosts with several networks often the wrong one.
"""

from __future__ import annotations

import os

import psutil

VARIABLE = "GLOO_SOCKET_IFNAME"


def interface_of(address: str) -> str | None:
    """Name of the interface that has this address, None where none has."""
    named = psutil.net_if_addrs().items()
    return next((name for name, found in named if any(entry.address.partition("%")[0] == address for entry in found)), None)


def choose_interface() -> None:
    """Set gloo's interface for this process, unless somebody has. Runs in a Ray worker, before its process group is made."""
    import ray.util

    if VARIABLE not in os.environ and (name := interface_of(ray.util.get_node_ip_address())):
        os.environ[VARIABLE] = name
