# The port plan of one job. Ray picks ports at random otherwise, and two jobs on a node (or a firewall) collide.
#
# Every job has a block of 200 ports below the range from which Linux gives ports to outgoing connections (32768 on),
# at an offset that its id decides. Jobs whose ids differ by a multiple of 112 share a block: `ports_free` finds that
# out before Ray starts.

PORTS_FIRST=10000
PORTS_PER_JOB=200
PORTS_BLOCKS=112

# plan_ports JOB_ID: set the variables PORT_*.
plan_ports() {
  local job=$1
  [[ $job =~ ^[0-9]+$ ]] || { echo "plan_ports: not a job id: '$job'" >&2; return 1; }
  local base=$((PORTS_FIRST + (job % PORTS_BLOCKS) * PORTS_PER_JOB))
  PORT_GCS=$base
  PORT_NODE_MANAGER=$((base + 1))
  PORT_OBJECT_MANAGER=$((base + 2))
  PORT_RUNTIME_ENV=$((base + 3))
  PORT_AGENT_GRPC=$((base + 4))
  PORT_AGENT_HTTP=$((base + 5))
  PORT_METRICS=$((base + 6))
  # Ray's own workers: one port for each actor of a node.
  PORT_WORKER_FIRST=$((base + 20))
  PORT_WORKER_LAST=$((base + PORTS_PER_JOB - 1))
  export PORT_GCS PORT_NODE_MANAGER PORT_OBJECT_MANAGER PORT_RUNTIME_ENV PORT_AGENT_GRPC PORT_AGENT_HTTP \
    PORT_METRICS PORT_WORKER_FIRST PORT_WORKER_LAST
}

# port_taken PORT: succeed if something listens on this machine's PORT.
port_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# ports_free: succeed if nothing listens on the planned ports of this machine; name those that are taken.
ports_free() {
  local port taken=()
  for port in "$PORT_GCS" "$PORT_NODE_MANAGER" "$PORT_OBJECT_MANAGER" "$PORT_RUNTIME_ENV" "$PORT_AGENT_GRPC" \
    "$PORT_AGENT_HTTP" "$PORT_METRICS" "$PORT_WORKER_FIRST"; do
    if port_taken "$port"; then taken+=("$port"); fi
  done
  ((${#taken[@]} == 0)) && return 0
  echo "$(hostname): ports in use: ${taken[*]} (another job, or Ray left over from one)" >&2
  return 1
}
