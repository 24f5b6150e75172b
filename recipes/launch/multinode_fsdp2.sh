#!/usr/bin/env bash
# As multinode.sh, with the model in pieces on all GPUs of all machines: accelerate reads fsdp2.yaml and is told the machines.
#
#   MASTER_ADDR=10.0.0.1 NODES=4 NODE_RANK=0 GPUS=8 recipes/launch/multinode_fsdp2.sh recipes/summarize.yaml output=/shared/runs/big
set -euo pipefail
nodes="${NODES:?how many machines}" gpus="${GPUS:-8}"
exec accelerate launch --config_file recipes/launch/fsdp2.yaml --num_machines "$nodes" --num_processes "$((nodes * gpus))" \
  --machine_rank "${NODE_RANK:?which one is this, from 0}" --main_process_ip "${MASTER_ADDR:?address of machine 0}" \
  --main_process_port "${MASTER_PORT:-29500}" recipes/finetune.py "$@"
