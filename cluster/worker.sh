#!/usr/bin/env bash
# Join this machine to a cluster whose head runs elsewhere. Needs the head's token at the same path.
#
#   cluster/worker.sh HEAD:6379 [further options of `ray start`]
#   RAY_AUTH_MODE=token .venv/bin/python cluster/leave.py now      before a shutdown: the runs on this machine save first
set -euo pipefail
cd "$(dirname "$0")/.."
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
[ -s "$RAY_AUTH_TOKEN_PATH" ] ||
    { echo "error: no token at $RAY_AUTH_TOKEN_PATH: copy it from the head (mode 600)" >&2; exit 2; }
exec ray start --address="${1:?no address of the head given, such as 10.0.0.1:6379}" --disable-usage-stats "${@:2}"
