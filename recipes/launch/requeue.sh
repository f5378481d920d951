#!/usr/bin/env bash
#SBATCH --requeue
#SBATCH --signal=B:TERM@600
#SBATCH --open-mode=append
# Starts the run NAME by RECIPE, or continues it where it stopped; asks Slurm for another turn when
# it was preempted. Usage: [sbatch] recipes/launch/requeue.sh RECIPE NAME [--section.key value ...]
set -u
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True} # see node.sh
recipe=$1 name=$2
shift 2

if [ -f "runs/$name/config.toml" ]; then
    rlvr train "$recipe" "$@" --resume "runs/$name" &
else
    rlvr train "$recipe" --run.dir runs --run.name "$name" "$@" &
fi
run=$!
trap 'kill -TERM "$run"' TERM
wait "$run"
code=$?
if kill -0 "$run" 2>/dev/null; then # the signal ended the first wait, not the run
    wait "$run"
    code=$?
fi
if [ "$code" -eq 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
