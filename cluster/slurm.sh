#!/usr/bin/env bash
# A study on whole nodes of a Slurm cluster, as one job: Ray with a token of its own, the driver on the first node.
#
#   sbatch --nodes=4 --time=24:00:00 cluster/slurm.sh studies/scaling.yaml
#
# Run it from the repository, on a file system that all nodes share; the study's storage must lie there, too. Three minutes before
# its time is over every run saves, and the job queues again; so does a preempted one. The same line again goes on, too.
# The job's exit code is the study's.
#SBATCH --job-name=vitscale
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --open-mode=append
#SBATCH --output=vitscale-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?run me with sbatch}"
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
[ -f "${1:?the study: sbatch cluster/slurm.sh STUDY.yaml}" ] || { echo "no study file $1" >&2; exit 2; }

# One job, one cluster, one token: in the home folder, which all nodes see, for its owner alone, gone with the job.
umask 077
scratch="$HOME/.ray/slurm-$SLURM_JOB_ID"
rm -rf "$scratch" # a job that was queued again has the same number
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$scratch/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$scratch/token"

# The address of the first node as the others see it: a name may lead to 127.0.1.1 there.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{print $1}')
head="$address:$((20000 + SLURM_JOB_ID % 10000))" # outside of Ray's worker ports, 10002 to 19999

# Before the end of its time Slurm sends USR1 to this script alone. bash sees it between two commands, or in `wait`.
is_over=
trap 'is_over=yes; python -m orchestrator.cli stop "$@" || true' USR1

# symmetric-run returns 0 where Ray did not start: the mark tells whether the study was begun.
# shellcheck disable=SC2016 # $0 and $@ are those of the inner shell
srun --kill-on-bad-exit=0 ray symmetric-run --address "$head" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --dashboard-host=127.0.0.1 --disable-usage-stats -- \
    env RAY_ADDRESS="$head" sh -c 'touch "$0" && exec python -m orchestrator.study "$@"' "$scratch/begun" "$@" &
step=$!
code=0
while wait "$step" || code=$?; kill -0 "$step" 2> /dev/null; do code=0; done # a signal ends `wait`, not the step
[ -e "$scratch/begun" ] || { echo "Ray did not start on all nodes" >&2; exit 3; }
[ -z "$is_over" ] || [ "$code" = 0 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
