#!/usr/bin/env bash
# All GPUs of this machine, or GPUS of them: checks the machine, then trains, a process per GPU.
#   recipes/launch/node.sh recipes/r1_distill_qwen_1.5b_lora.toml [--section.key value ...]
#   GPUS=4 recipes/launch/node.sh --resume runs/NAME
#   SHARD=1 recipes/launch/node.sh ...     a policy too large for each GPU to hold all of it
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
config=$(dirname "$0")/../accelerate/$([ "${SHARD:-0}" = 1 ] && echo fsdp2 || echo ddp).yaml

rlvr doctor
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
if [ "$gpus" -eq 1 ]; then
    exec rlvr train "$@"
fi
exec accelerate launch --config_file "$config" --num_processes "$gpus" -m rlvr.cli train "$@"
