#!/usr/bin/env bash
# One GPU: checks the machine, then trains.
#   recipes/launch/single_gpu.sh recipes/r1_distill_qwen_1.5b_lora.toml [--section.key value ...]
#   recipes/launch/single_gpu.sh --resume runs/NAME
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }

# micro-batches of every length fragment what vLLM leaves; it switches this off around its sleep
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
case $1 in --*) rlvr doctor ;; *) rlvr doctor "$@" ;; esac
exec rlvr train "$@"
