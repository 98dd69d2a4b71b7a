#!/bin/bash
# A SLURM array: each task does a part of the prompts on a GPU of its own.
#   sbatch examples/cluster/slurm_array.sh my-bundle evaluation_metadata.jsonl images
# Afterwards, or in between: minit2i shards status images. Tasks that failed may be submitted
# again as an array of any size: only what is missing is made.
#SBATCH --job-name=minit2i
#SBATCH --array=0-15
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --requeue
set -euo pipefail

bundle=$1 prompts=$2 images=$3
minit2i eval paint geneval "$bundle" --prompts "$prompts" -o "$images" \
    --provider cuda --shard auto
