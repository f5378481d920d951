#!/usr/bin/env bash
# A comparison over the nodes of a Ray cluster, a GPU per run. The nodes share a file system.
#   recipes/launch/ray.sh head                         on one node
#   recipes/launch/ray.sh worker HEAD                  on every other one; HEAD: that node's address
#   recipes/launch/ray.sh run recipes/compare/r1_distill_qwen_1.5b_adapters.toml [--section.key value ...]
#   recipes/launch/ray.sh stop                         on every node
# On a cluster that is there already, `run` alone is enough, on one of its nodes.
# One training run over several nodes: slurm_multinode.sh.
set -euo pipefail
usage() { sed -n '2,8s/^# //p' "$0"; exit 2; }
PORT=${PORT:-6379}
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True} # see node.sh

case "${1:-}" in
head)
    rlvr doctor
    exec ray start --head --port "$PORT" --include-dashboard=false --disable-usage-stats
    ;;
worker)
    [ $# -eq 2 ] || usage
    rlvr doctor
    exec ray start --address "$2:$PORT"
    ;;
run)
    [ $# -ge 2 ] || usage
    shift
    RAY_ADDRESS=${RAY_ADDRESS:-auto} exec rlvr compare "$@" --executor.kind ray
    ;;
stop) exec ray stop ;;
*) usage ;;
esac
