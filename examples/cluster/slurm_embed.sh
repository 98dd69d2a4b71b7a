#!/bin/bash
# One job of several nodes: srun starts a process a GPU, and each takes its part of the texts.
#   sbatch examples/cluster/slurm_embed.sh my-bundle captions.txt vectors.parquet
#SBATCH --job-name=minit2i-embed
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
set -euo pipefail

bundle=$1 texts=$2 output=$3
srun minit2i embed "$bundle" --input "$texts" -o "$output" --pooled-only --provider cuda \
    --shard auto
minit2i shards verify "$output"
