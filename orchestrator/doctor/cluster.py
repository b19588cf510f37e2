"""Checks of Ray, as this client would use it: token, mode, the head's reply, where its dashboard listens, shared storage."""

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

from orchestrator.doctor.finding import Finding, fail, ok, reason, warn

DASHBOARD_PORT, HEAD_PORT = 8265, 6379
REPLY_SECONDS, NODES_SECONDS = 5.0, 60.0
USE_TOKEN = "on head, nodes and client alike: export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray/auth_token"


def token_path() -> Path:
    """Where Ray reads the token: RAY_AUTH_TOKEN_PATH, else in the home folder."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def token() -> str:
    """The token that this client would send; empty where none can be read."""
    try:
        return os.environ.get("RAY_AUTH_TOKEN", "") or token_path().read_text().strip()
    except OSError:
        return ""


def auth() -> list[Finding]:
    """The token file and the mode. Without a mode Ray's parts differ: where a token exists, `ray start` turns
    authentication on, but `ray job` sends no token."""
    mode, path, is_cluster = os.environ.get("RAY_AUTH_MODE", ""), token_path(), bool(os.environ.get("RAY_ADDRESS"))
    findings = []
    if path.is_file():
        permissions = stat.S_IMODE(path.stat().st_mode)
        if permissions & 0o077:
            findings.append(fail(f"{path} has mode {permissions:04o}: other users can read the token", f"chmod 600 {path}"))
        else:
            findings.append(ok(f"{path} has mode {permissions:04o}"))
    if mode == "token" and is_cluster and not token():
        fix = f"copy the token of the head to {path}, then chmod 600 {path}"
        return [*findings, fail(f"RAY_AUTH_MODE=token, but there is no token at {path}", fix)]
    if mode == "token":
        return [*findings, ok("RAY_AUTH_MODE=token")]
    if mode not in ("", "disabled"):
        return [*findings, fail(f"invalid RAY_AUTH_MODE={mode} (allowed: token, disabled)", USE_TOKEN)]
    if mode == "" and token():
        text = (
            "there is a token, but RAY_AUTH_MODE is not set: `ray start` requires the token, `ray job submit` does not send it"
        )
        return [*findings, warn(text, USE_TOKEN)]
    if is_cluster:
        return [*findings, warn("this client sends no token: RAY_AUTH_MODE is not token", USE_TOKEN)]
    return [*findings, ok("RAY_ADDRESS is not set: a study starts Ray on this machine, with its own token")]


def job_api() -> str:
    """Address of the job API: from the variables that Ray's commands read, else on this machine."""
    named = [os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")]
    return next((address for address in named if address.startswith("http")), f"http://127.0.0.1:{DASHBOARD_PORT}").rstrip("/")


def head() -> list[Finding]:
    """Whether the head requires a token, and accepts this one."""
    address = job_api()
    without_token, error = _ask(address, "")
    if without_token == 0:
        if any(os.environ.get(name, "").startswith("http") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")):
            fix = "start the head, or open the tunnel to it (ssh -L 8265:127.0.0.1:8265 HEAD)"
            return [fail(f"the head at {address} does not answer: {error}", fix)]
        return [ok(f"no head runs on this machine ({address})")]
    if without_token == 200:
        fix = f"restart it with cluster/head.sh; then {USE_TOKEN}"
        return [fail(f"the head at {address} runs without authentication: anyone who can reach it can run code on it", fix)]
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return [fail(f"modes differ: the head at {address} requires a token, this client sends none (401)", USE_TOKEN)]
    status, error = _ask(address, token())
    if status == 200:
        return [ok(f"the head at {address} requires a token and accepts this one")]
    return [
        fail(f"the head at {address} rejects this token ({status or error})", f"copy the token of the head to {token_path()}")
    ]


def _ask(address: str, secret: str) -> tuple[int, str]:
    """(HTTP status, or 0 without a reply; the error)."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        request = urllib.request.Request(f"{address}/api/jobs/", headers=headers)
        with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as reply:
            return int(reply.status), ""
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, ValueError) as error:
        return 0, reason(error)


def dashboard() -> list[Finding]:
    """The dashboard of a head on this machine must listen on loopback: its port is also that of the job API, which runs
    any code."""
    port = int(job_api().rpartition(":")[2]) if job_api().rpartition(":")[2].isdigit() else DASHBOARD_PORT
    addresses = listening(port)
    public = [address for address in addresses if address not in ("127.0.0.1", "::1")]
    if public:
        fix = "ray start --head --dashboard-host=127.0.0.1 (as cluster/head.sh does), and reach it through ssh -L"
        return [fail(f"port {port} listens on {', '.join(public)}: the job API is open to the network", fix)]
    return [ok(f"port {port} listens on loopback only" if addresses else f"no process listens on port {port} here")]


def listening(port: int) -> list[str]:
    """Addresses of this machine on which a process listens at a port (Linux: /proc/net)."""
    addresses = []
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
                addresses.append(socket.inet_ntop(family, raw).removeprefix("::ffff:"))
    return sorted(set(addresses))


def ports() -> list[Finding]:
    """The head that RAY_ADDRESS names can be reached. Without RAY_ADDRESS, the ports of a head are free."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if address.startswith("http") or not port.isdigit():
        busy = [number for number in (HEAD_PORT, DASHBOARD_PORT) if listening(number)]
        if busy and not address:
            text = f"a process listens on port {' and '.join(map(str, busy))}, which a head would use"
            return [warn(text, "if it is a head, use it: export RAY_ADDRESS=auto; else `ray start --port`")]
        return [
            ok("not checked: RAY_ADDRESS names the job API" if address else f"ports {HEAD_PORT} and {DASHBOARD_PORT} are free")
        ]
    try:
        with socket.create_connection((host, int(port)), timeout=REPLY_SECONDS):
            return [ok(f"{host}:{port} can be reached")]
    except OSError as error:
        fix = "start the head; open ports 6379 and 10002-19999 between the nodes"
        return [fail(f"{host}:{port} does not answer: {reason(error)}", fix)]


def shared_storage(storage: Path) -> list[Finding]:
    """Every node of the cluster sees a file that was just written to the storage folder."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return [ok("one machine: the storage folder need not be shared")]
    if address.startswith("http") or not storage.is_dir():
        return [ok(f"not checked from here: submit `vitscale doctor` as a job once {storage} exists")]
    command = [sys.executable, "-m", "orchestrator.doctor.nodes", str(storage)]  # Ray may end the process of a failed client
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NODES_SECONDS)
        blind, nodes = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        fix = "run `ray status`; use the same RAY_AUTH_MODE on head, nodes and client"
        return [fail(f"the cluster did not answer in {NODES_SECONDS:g} s", fix)]
    if blind:
        fix = "storage.path: a folder that all nodes mount (NFS, Lustre, a mounted bucket)"
        return [fail(f"{len(blind)} of {nodes} nodes do not see {storage}: {', '.join(blind[:5])}", fix)]
    return [ok(f"all {nodes} node(s) see {storage}")]
