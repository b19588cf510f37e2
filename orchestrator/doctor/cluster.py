"""Ray as this client would meet it: token, mode, the head's answer, where its dashboard listens, what its nodes see."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from orchestrator.doctor.finding import Finding, fail, ok, warn

DASHBOARD_PORT, HEAD_PORT = 8265, 6379
REPLY_SECONDS, NODES_SECONDS = 5.0, 60.0
USE_TOKEN = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray/auth_token, the same on head, nodes and client"


def token_path() -> Path:
    """Where Ray looks for the token: RAY_AUTH_TOKEN_PATH, else in the home folder."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def token() -> str:
    """The token this client would send; empty where there is none that can be read."""
    try:
        return os.environ.get("RAY_AUTH_TOKEN", "") or token_path().read_text().strip()
    except OSError:
        return ""


def auth() -> list[Finding]:
    """The token file and the mode, which Ray's parts read differently when it is not set (`ray start` turns it on where
    a token lies, `ray job` does not)."""
    mode, path, named = os.environ.get("RAY_AUTH_MODE", ""), token_path(), bool(os.environ.get("RAY_ADDRESS"))
    found = []
    if path.is_file():
        permissions = stat.S_IMODE(path.stat().st_mode)
        if permissions & 0o077:
            found.append(fail(f"{path} has mode {permissions:04o}: others can read the token", f"chmod 600 {path}"))
        else:
            found.append(ok(f"{path} has mode {permissions:04o}"))
    if mode == "token" and named and not token():
        return [*found, fail(f"RAY_AUTH_MODE=token, and no token at {path}", "copy the head's token there, then chmod 600")]
    if mode == "token":
        return [*found, ok("RAY_AUTH_MODE=token")]
    if mode not in ("", "disabled"):
        return [*found, fail(f"RAY_AUTH_MODE={mode} is no mode", USE_TOKEN)]
    if mode == "" and token():
        text = (
            "a token is there and RAY_AUTH_MODE is not set: `ray start` asks for the token, `ray job submit` does not send it"
        )
        return [*found, warn(text, USE_TOKEN)]
    if named:
        return [*found, warn("this client sends no token: RAY_AUTH_MODE is not token", USE_TOKEN)]
    return [*found, ok("no cluster is named: a study starts Ray here, with a token of its own")]


def job_api() -> str:
    """Address of the job API: as Ray's commands find it, else this machine's."""
    named = [os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")]
    return next((address for address in named if address.startswith("http")), f"http://127.0.0.1:{DASHBOARD_PORT}").rstrip("/")


def head() -> list[Finding]:
    """Whether the head asks for a token, and whether it is this one."""
    address = job_api()
    without, error = _ask(address, "")
    if without == 0:
        if any(os.environ.get(name, "").startswith("http") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")):
            mend = "is the head up, and the tunnel (ssh -L 8265:127.0.0.1:8265 HEAD)?"
            return [fail(f"no answer from {address} in {REPLY_SECONDS:g} s: {error}", mend)]
        return [ok(f"no head on this machine ({address})")]
    if without == 200:
        mend = "start it again with cluster/head.sh; from then on " + USE_TOKEN
        return [fail(f"the head at {address} runs without authentication: whoever reaches it runs code on it", mend)]
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return [fail(f"modes differ: the head at {address} asks for a token and this client sends none (401)", USE_TOKEN)]
    status, error = _ask(address, token())
    if status == 200:
        return [ok(f"the head at {address} asks for the token and takes this one")]
    return [fail(f"the head at {address} does not take this token ({status or error})", f"copy the head's to {token_path()}")]


def _ask(address: str, secret: str) -> tuple[int, str]:
    """(HTTP status or 0, why there was no answer)."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        request = urllib.request.Request(f"{address}/api/jobs/", headers=headers)
        with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as reply:
            return int(reply.status), ""
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error))


def dashboard() -> list[Finding]:
    """The dashboard of a head on this machine listens on loopback: with it comes the job API, which runs anything."""
    port = int(job_api().rpartition(":")[2]) if job_api().rpartition(":")[2].isdigit() else DASHBOARD_PORT
    places = listening(port)
    open_places = [place for place in places if place not in ("127.0.0.1", "::1")]
    if open_places:
        mend = "ray start --head --dashboard-host=127.0.0.1 (cluster/head.sh does), and reach it through ssh -L"
        return [fail(f"port {port} listens on {', '.join(open_places)}: the job API is open to the network", mend)]
    return [ok(f"port {port} listens on loopback only" if places else f"nothing listens on port {port} here")]


def listening(port: int) -> list[str]:
    """Addresses of this machine on which something listens at a port (Linux: /proc/net)."""
    found = []
    for table, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for local, state in ((line.split()[1], line.split()[3]) for line in lines):
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:  # TCP_LISTEN
                words = bytes.fromhex(address)  # 32-bit words in the machine's order
                raw = b"".join(
                    int.from_bytes(words[i : i + 4], "big").to_bytes(4, sys.byteorder) for i in range(0, len(words), 4)
                )
                found.append(socket.inet_ntop(family, raw).removeprefix("::ffff:"))
    return sorted(set(found))


def ports() -> list[Finding]:
    """A named head can be reached; or its ports are free, where one would be started here."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if address.startswith("http") or not port.isdigit():
        busy = [number for number in (HEAD_PORT, DASHBOARD_PORT) if listening(number)]
        if busy and not address:
            text = f"something listens on {', '.join(map(str, busy))}, where a head would"
            return [warn(text, "if that is a head, name it: RAY_ADDRESS=auto; else `ray start --port`")]
        return [ok(f"ports {HEAD_PORT} and {DASHBOARD_PORT} are free" if not address else "the job API is asked instead")]
    try:
        with socket.create_connection((host, int(port)), timeout=REPLY_SECONDS):
            return [ok(f"{host}:{port} can be reached")]
    except OSError as error:
        return [fail(f"{host}:{port} cannot be reached: {error}", "open 6379 and 10002-19999 between the nodes")]


def shared_storage(storage: Path) -> list[Finding]:
    """Every node of the named cluster sees a file that was just written into the storage folder."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return [ok("one machine: its storage need not be shared")]
    if address.startswith("http") or not storage.is_dir():
        return [ok(f"not looked at from here: submit `vitscale doctor` as a job, once {storage} is there")]
    command = [sys.executable, "-m", "orchestrator.doctor.nodes", str(storage)]  # Ray may end the process that asks in vain
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NODES_SECONDS)
        blind, nodes = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return [
            fail(f"the cluster did not answer in {NODES_SECONDS:g} s", "`ray status`; is RAY_AUTH_MODE the same everywhere?")
        ]
    if blind:
        mend = "storage.path: a folder that all nodes mount (NFS, Lustre, a mounted bucket)"
        return [fail(f"{len(blind)} of {nodes} nodes do not see {storage}: {', '.join(blind[:5])}", mend)]
    return [ok(f"all {nodes} node(s) see {storage}")]
