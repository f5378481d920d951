#!/usr/bin/env bash
# A vLLM server on each of the listed GPUs of this node, training on others (docs/server.md).
#
#   recipes/launch/servers.sh RECIPE SERVER_GPUS TRAIN_GPUS [--section.key value ...]
#   recipes/launch/servers.sh recipes/r1_distill_qwen_1.5b_lora.toml 1,2,3 0 --train.steps 100
#   recipes/launch/servers.sh recipes/r1_distill_qwen_7b_lora.toml 1+2,3+4 0 \
#     --rollout.tensor_parallel_size 2
#   recipes/launch/servers.sh recipes/r1_distill_qwen_1.5b_lora.toml 2,3,4,5,6,7 0,1 --rollout.mode async
#
# Servers listen on 127.0.0.1, ports PORT (8000) and up; their output goes to runs/servers/. One
# that dies is started again. Everything ends with the training, whose exit code is the script's;
# SIGTERM and SIGINT reach the training, which writes a checkpoint first.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; fi
recipe=$1 server_gpus=$2 train_gpus=$3
shift 3

export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True} # see node.sh

RLVR_API_KEY=${RLVR_API_KEY:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
export RLVR_API_KEY
mkdir -p runs/servers
port=${PORT:-8000} urls=() loops=() trainer=
for gpus in ${server_gpus//,/ }; do urls+=("\"http://127.0.0.1:$((port + ${#urls[@]}))\""); done
servers=$(IFS=,; echo "[${urls[*]}]")
settings=("$@" --rollout.engine vllm_server --rollout.servers "$servers")
rlvr serve "$recipe" "${settings[@]}" --print >/dev/null # a mistake ends it here
rlvr doctor "$recipe" "${settings[@]}" || { echo "servers.sh: mend what fails above first" >&2; exit 1; }

stop() {
  for loop in "${loops[@]}"; do kill -- "-$loop" 2>/dev/null || true; done
}
trap stop EXIT
trap '[ -z "$trainer" ] || kill -TERM "$trainer"' TERM INT

set -m  # every server in a process group of its own, to be ended as a whole
for gpus in ${server_gpus//,/ }; do
  (
    export CUDA_VISIBLE_DEVICES=${gpus//+/,}
    until rlvr serve "$recipe" --port "$port" "${settings[@]}"; do
      echo "server on port $port ended with $?; again in 5 s"
      sleep 5
    done
  ) >>"runs/servers/$port.log" 2>&1 </dev/null &
  loops+=($!)
  port=$((port + 1))
done

train=(rlvr train)
count=$(tr ',' '\n' <<<"$train_gpus" | wc -l)
if [ "$count" -gt 1 ]; then
  config=${CONFIG:-$(dirname "$0")/../accelerate/ddp.yaml}
  train=(accelerate launch --config_file "$config" --num_processes "$count" -m rlvr.cli train)
fi
CUDA_VISIBLE_DEVICES=$train_gpus "${train[@]}" "$recipe" "${settings[@]}" &
trainer=$!
code=0
wait "$trainer" || code=$?
while kill -0 "$trainer" 2>/dev/null; do code=0; wait "$trainer" || code=$?; done
exit "$code"
