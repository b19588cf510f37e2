#!/usr/bin/env bash
# Start the head of a Ray cluster, with token authentication, and with dashboard and job API on loopback only.
#
#   cluster/head.sh [further options of `ray start`]
#
# The first start creates the token, readable by its owner only. Copy it to the same path on every node and client.
set -euo pipefail
cd "$(dirname "$0")/.."
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"    # a job runs the `python` that Ray was started with
export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-120}" # a job that is stopped saves every run first
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (umask 077 && mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")" &&
        python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
fi
chmod 600 "$RAY_AUTH_TOKEN_PATH"
exec ray start --head --dashboard-host=127.0.0.1 --disable-usage-stats "$@"
