#!/usr/bin/env bash
# Run a study as one Slurm job on whole nodes: a private Ray cluster with its own token, the driver on the first node.
#
#   sbatch --nodes=4 --time=24:00:00 cluster/slurm.sh studies/scaling.yaml
#
# Submit it from the repository. Repository and storage must be on a file system that all nodes share. Three minutes before the
# time limit every run saves a checkpoint and the job is requeued; a preempted job is requeued, too. The same sbatch command
# resumes a study that has ended early. The job's exit code is that of the study.
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
cd "${SLURM_SUBMIT_DIR:?not set: submit this script with sbatch}"
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"
study="${1:?no study file given: sbatch cluster/slurm.sh STUDY.yaml}"
[ -f "$study" ] || { echo "error: study file $study does not exist" >&2; exit 2; }

# The token of this job's cluster: in the home folder, which all nodes share, readable by its owner only, deleted with the job.
umask 077
scratch="$HOME/.ray/slurm-$SLURM_JOB_ID"
rm -rf "$scratch" # a requeued job has the same id
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$scratch/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$scratch/token"

# The first node's address. Its host name may resolve to 127.0.1.1 on that node.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{print $1}')
head="$address:$((20000 + SLURM_JOB_ID % 10000))" # outside Ray's worker ports, 10002 to 19999

# Before the time limit Slurm sends USR1 to this script only. bash handles it between two commands, or in `wait`.
is_stopping=
trap 'is_stopping=yes; python -m orchestrator.cli stop "$@" || true' USR1

# symmetric-run returns 0 even if Ray did not start. The file shows whether the study was started.
# shellcheck disable=SC2016 # $0 and $@ belong to the inner shell
srun --kill-on-bad-exit=0 ray symmetric-run --address "$head" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --dashboard-host=127.0.0.1 --disable-usage-stats -- \
    env RAY_ADDRESS="$head" sh -c 'touch "$0" && exec python -m orchestrator.study "$@"' "$scratch/begun" "$@" &
step=$!
code=0
while wait "$step" || code=$?; kill -0 "$step" 2> /dev/null; do code=0; done # a signal interrupts `wait`, not the step
[ -e "$scratch/begun" ] || { echo "error: Ray did not start on all nodes" >&2; exit 3; }
[ -z "$is_stopping" ] || [ "$code" = 0 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
