#!/usr/bin/env bash
# One GPU: checks the machine, then trains.
#   recipes/launch/single_gpu.sh recipes/r1_distill_qwen_1.5b_lora.toml [--section.key value ...]
#   recipes/launch/single_gpu.sh --resume runs/NAME
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }

rlvr doctor
exec rlvr train "$@"
