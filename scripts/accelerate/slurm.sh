#!/bin/bash
# Two nodes of eight GPUs under SLURM: sbatch scripts/accelerate/slurm.sh RECIPE [options of t2i train]
# Submitted again with --resume latest, a run goes on. `--signal` stops it with a checkpoint before its time is up.
#SBATCH --job-name=t2i
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log

set -euo pipefail
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240  # seconds that processes have to save; a crash takes as long to be noticed
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / 8))
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'exec accelerate launch \
    --config_file scripts/accelerate/two_nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * 8)) --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$0" -m t2i.training "$@"' "$address" "$@"
