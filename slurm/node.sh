# What runs on the nodes, inside the container: Ray's head, its workers, and the driver that waits for all of them.
#
# usage: ray.sh head | worker | driver [OVERRIDE ...]
# Reads PORT_*, HEAD_ADDRESS, NUM_NODES, GPUS_PER_NODE, OBJECT_STORE_MIB, START_DEADLINE_S, POLL_S, RAY_AUTH_TOKEN_PATH.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/phases.sh"

# Other users of the nodes must not be able to give commands to this Ray.
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0

ray_ports=(
  --node-manager-port="$PORT_NODE_MANAGER"
  --object-manager-port="$PORT_OBJECT_MANAGER"
  --runtime-env-agent-port="$PORT_RUNTIME_ENV"
  --dashboard-agent-grpc-port="$PORT_AGENT_GRPC"
  --dashboard-agent-listen-port="$PORT_AGENT_HTTP"
  --metrics-export-port="$PORT_METRICS"
  --min-worker-port="$PORT_WORKER_FIRST"
  --max-worker-port="$PORT_WORKER_LAST"
  --num-gpus="$GPUS_PER_NODE"
  --object-store-memory="$((OBJECT_STORE_MIB * 1024 * 1024))"
  --disable-usage-stats
  --block
)

ray_head() {
  exec ray start --head --node-ip-address="$HEAD_ADDRESS" --port="$PORT_GCS" --include-dashboard=false "${ray_ports[@]}"
}

ray_worker() {
  # The head may come up later than we do; how long all of this may take is the driver's deadline.
  until head_is_up; do sleep "$POLL_S"; done
  exec ray start --address="$HEAD_ADDRESS:$PORT_GCS" "${ray_ports[@]}"
}

head_is_up() {
  ray health-check --address "$HEAD_ADDRESS:$PORT_GCS" >/dev/null 2>&1
}

# alive_nodes: how many nodes have joined; 0 while the head isn't up.
alive_nodes() {
  head_is_up || { echo 0; return; }
  python - "$HEAD_ADDRESS:$PORT_GCS" 2>/dev/null <<'PY' || echo 0
import sys

import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
PY
}

run_driver() {
  phase "waiting for $NUM_NODES node(s)"
  local alive=0 last=-1 end=$((SECONDS + START_DEADLINE_S))
  while alive=$(alive_nodes) && ((alive < NUM_NODES)); do
    if ((alive != last)); then note "$alive of $NUM_NODES"; fi
    last=$alive
    ((SECONDS < end)) || fail "only $alive of $NUM_NODES nodes joined Ray within $START_DEADLINE_S s"
    sleep "$POLL_S"
  done
  phase "cascade"
  # exec: the signal before the wall-time must reach the program itself.
  exec nemo-cascade run cluster.num_nodes="$NUM_NODES" cluster.gpus_per_node="$GPUS_PER_NODE" \
    cluster.ray_address="$HEAD_ADDRESS:$PORT_GCS" "$@"
}

role=$1
shift
case $role in
  head) ray_head ;;
  worker) ray_worker ;;
  driver) run_driver "$@" ;;
  *) fail "no such role: $role" ;;
esac
