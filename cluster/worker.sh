#!/usr/bin/env bash
# Join this machine to a cluster whose head runs elsewhere; needs the head's token at the same place.
#
#   cluster/worker.sh HEAD:6379 [further options of `ray start`]
#   RAY_AUTH_MODE=token .venv/bin/python cluster/leave.py now      before it goes away: what trains on it saves first
set -euo pipefail
cd "$(dirname "$0")/.."
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
[ -s "$RAY_AUTH_TOKEN_PATH" ] || { echo "no token at $RAY_AUTH_TOKEN_PATH: copy the head's there (mode 600)" >&2; exit 2; }
exec ray start --address="${1:?address of the head, such as 10.0.0.1:6379}" --disable-usage-stats "${@:2}"
