#!/usr/bin/env bash
# One cascade on N DGX nodes. Usage, from the repository:
#
#   CONTAINER_IMAGE=/images/nemo_cascade.sqsh sbatch --nodes=10 slurm/cascade.sbatch cascade=nemotron_cascade_8b
#
# All arguments go to `nemo-cascade run`. Shortly before the wall-time, or when the node is taken away, the run is
# stopped and the job requeued; the run folder tells the next start where to go on. See slurm/README.md.
#
#SBATCH --job-name=nemo-cascade
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

# Slurm runs a copy of this file from its spool, so the repository can't be found from the script's own path.
REPOSITORY=${REPOSITORY:-$SLURM_SUBMIT_DIR}
[[ -f $REPOSITORY/slurm/lib/ray.sh ]] || { echo "no slurm/lib in $REPOSITORY: submit from the repository" >&2; exit 1; }
source "$REPOSITORY/slurm/lib/phases.sh"
source "$REPOSITORY/slurm/lib/ports.sh"

CONTAINER_IMAGE=${CONTAINER_IMAGE:-}
CONTAINER_MOUNTS=${CONTAINER_MOUNTS:-}
export NUM_NODES=$SLURM_JOB_NUM_NODES
export GPUS_PER_NODE=${GPUS_PER_NODE:-8}
export OBJECT_STORE_MIB=${OBJECT_STORE_MIB:-65536}
export START_DEADLINE_S=${START_DEADLINE_S:-900}
# Longest that a stopping run may take before the job is requeued over it; --signal must leave at least this much.
STOP_DEADLINE_S=${STOP_DEADLINE_S:-300}
MAX_RESTARTS=${MAX_RESTARTS:-20}
export POLL_S=${POLL_S:-2}

(($# > 0)) || fail "nothing to run: give overrides, such as cascade=nemotron_cascade_8b"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${nodes[0]}

on_nodes=(srun --overlap --kill-on-bad-exit=1 --ntasks-per-node=1 --cpu-bind=none)
inside=()
if [[ -n $CONTAINER_IMAGE ]]; then
  mounts="$REPOSITORY:$REPOSITORY${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}"
  inside=(--container-image="$CONTAINER_IMAGE" --container-mounts="$mounts" --container-workdir="$REPOSITORY" --no-container-mount-home)
fi

phase "allocation"
note "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), nodes: ${nodes[*]}"
plan_ports "$SLURM_JOB_ID"
HEAD_ADDRESS=$("${on_nodes[@]}" --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | tr ' ' '\n' | grep -m1 -E '^[0-9.]+$') ||
  fail "no IPv4 address of $head_node"
export HEAD_ADDRESS
note "Ray at $HEAD_ADDRESS:$PORT_GCS, workers on ports $PORT_WORKER_FIRST-$PORT_WORKER_LAST"
"${on_nodes[@]}" --nodes="$NUM_NODES" --ntasks="$NUM_NODES" \
  bash -c 'source "$0"; ports_free' "$REPOSITORY/slurm/lib/ports.sh" || fail "planned ports are in use"

# The token lies where all nodes see it, readable by us alone.
RAY_AUTH_TOKEN_PATH=$REPOSITORY/.ray-token-$SLURM_JOB_ID
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
export RAY_AUTH_TOKEN_PATH
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

phase "ray"
"${on_nodes[@]}" --job-name=ray-head --nodes=1 --ntasks=1 --nodelist="$head_node" "${inside[@]}" \
  bash "$REPOSITORY/slurm/lib/ray.sh" head &
steps=($!)
if ((NUM_NODES > 1)); then
  "${on_nodes[@]}" --job-name=ray-workers --nodes=$((NUM_NODES - 1)) --ntasks=$((NUM_NODES - 1)) --exclude="$head_node" \
    "${inside[@]}" bash "$REPOSITORY/slurm/lib/ray.sh" worker &
  steps+=($!)
fi
"${on_nodes[@]}" --job-name=driver --nodes=1 --ntasks=1 --nodelist="$head_node" "${inside[@]}" \
  bash "$REPOSITORY/slurm/lib/ray.sh" driver "$@" &
driver=$!

stopping=0
stop_driver() {
  ((!stopping)) || return 0
  stopping=1
  stop_by=$((SECONDS + STOP_DEADLINE_S))
  phase "stopping before the wall-time"
  # A signal to srun itself would end its task unsaved; scancel delivers it to the program.
  local step
  step=$(squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format='%i %j' | awk '$2 == "driver" {print $1}')
  if [[ -n $step ]]; then scancel --signal=TERM "$step"; else note "no driver step to stop"; fi
}
trap stop_driver USR1

requeue() {
  ((${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)) || fail "restarted $MAX_RESTARTS times already; sbatch it again to go on"
  phase "requeue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}

# The driver's end decides. A Ray node that ends under it is a failure; sleeping in the background lets traps through.
while kill -0 "$driver" 2>/dev/null; do
  for step in "${steps[@]}"; do
    if ((!stopping)) && ! kill -0 "$step" 2>/dev/null; then
      kill "$driver" 2>/dev/null || true
      fail "a Ray node ended while the cascade was running"
    fi
  done
  if ((stopping && SECONDS > stop_by)); then
    note "the run did not stop within $STOP_DEADLINE_S s; it goes on from its last checkpoint"
    requeue
  fi
  sleep "$POLL_S" &
  wait $! || true
done
code=0
wait "$driver" || code=$?
# 128 + SIGTERM: it was stopped, not finished and not failed.
if ((stopping && code == 143)); then requeue; fi
phase "done (exit code $code)"
exit "$code"
