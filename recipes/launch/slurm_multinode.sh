#!/usr/bin/env bash
# Several machines under Slurm, a process per GPU. Submit from the project's folder, on a file system
# that all nodes share; set the lines below to your cluster.
#   sbatch recipes/launch/slurm_multinode.sh recipes/r1_distill_qwen_1.5b_lora.toml --run.name NAME
#   sbatch recipes/launch/slurm_multinode.sh --resume runs/NAME
#SBATCH --job-name=rlvr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --output=slurm-%j.out
set -euo pipefail
[ $# -ge 1 ] || { echo "give a recipe, or --resume RUN" >&2; exit 2; }

GPUS_PER_NODE=${GPUS_PER_NODE:-8}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000))
CONFIG=${CONFIG:-recipes/accelerate/ddp.yaml} # fsdp2.yaml, zero2.yaml: too large for each GPU
export GPUS_PER_NODE HEAD PORT CONFIG
# since Slurm 22.05 srun does not take over --cpus-per-task: all ranks of a node would share a core
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# micro-batches of every length fragment what vLLM leaves; it switches this off around its sleep
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}

doctor=(rlvr doctor)
[[ $1 == --* ]] || doctor+=("$@")
srun "${doctor[@]}"
# each node fills in its own number
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --config_file "$CONFIG" \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes "$((SLURM_NNODES * GPUS_PER_NODE))" \
    --main_process_ip "$HEAD" --main_process_port "$PORT" \
    -m rlvr.cli train "$@"' train "$@"
