#!/usr/bin/env bash
# All GPUs of this machine, or GPUS of them: checks the machine, then trains, a process per GPU.
#   recipes/launch/node.sh recipes/r1_distill_qwen_1.5b_lora.toml [--section.key value ...]
#   GPUS=4 recipes/launch/node.sh --resume runs/NAME
#   CONFIG=recipes/accelerate/fsdp2.yaml recipes/launch/node.sh recipes/r1_distill_qwen_7b_lora.toml
#     where a policy is too large for each GPU to hold all of it; zero2.yaml, zero3.yaml: DeepSpeed
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,6s/^# //p' "$0"; exit 2; }
config=${CONFIG:-$(dirname "$0")/../accelerate/ddp.yaml}

# micro-batches of every length fragment what vLLM leaves; it switches this off around its sleep
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
case $1 in --*) rlvr doctor ;; *) rlvr doctor "$@" ;; esac
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
if [ "$gpus" -eq 1 ]; then
    exec rlvr train "$@"
fi
exec accelerate launch --config_file "$config" --num_processes "$gpus" -m rlvr.cli train "$@"
