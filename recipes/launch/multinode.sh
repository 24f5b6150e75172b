#!/usr/bin/env bash
# Several machines by torchrun: start this on each of them, with the same MASTER_ADDR and its own NODE_RANK.
#
#   MASTER_ADDR=10.0.0.1 NODES=4 NODE_RANK=0 GPUS=8 recipes/launch/multinode.sh recipes/summarize.yaml output=/shared/runs/big
#
# The output must be a folder that all machines see. A lost machine ends the others; start all again with --resume.
set -euo pipefail
exec torchrun --nnodes "${NODES:?how many machines}" --node_rank "${NODE_RANK:?which one is this, from 0}" \
  --nproc_per_node "${GPUS:-8}" --master_addr "${MASTER_ADDR:?address of machine 0}" --master_port "${MASTER_PORT:-29500}" \
  recipes/finetune.py "$@"
