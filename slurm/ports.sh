# shellcheck shell=bash
# The port plan of one node of one job. Ray picks ports at random otherwise, and two jobs on a node (or a firewall)
# collide.
#
# Blocks of 200 ports lie below the range from which Linux gives ports to outgoing connections (32768 on). Job and node
# decide which block is tried first; the first on which nothing listens is taken.

PORTS_FIRST=10000
PORTS_PER_BLOCK=200
PORTS_BLOCKS=112

# listening: the ports on which something listens on this machine, one per line, in hexadecimal as the kernel has them.
listening() {
  awk '$4 == "0A" {n = split($2, part, ":"); print part[n]}' /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# plan_ports JOB_ID NODE_INDEX: set the variables PORT_*; fails where every block is in use.
plan_ports() {
  local job=$1 node=$2 block base port
  [[ $job =~ ^[0-9]+$ && $node =~ ^[0-9]+$ ]] || { echo "plan_ports: not a job and a node: '$job' '$node'" >&2; return 1; }
  local -A taken=()
  while read -r port; do taken[$((16#$port))]=1; done < <(listening)
  for ((block = 0; block < PORTS_BLOCKS; block++)); do
    base=$((PORTS_FIRST + (job + node + block) % PORTS_BLOCKS * PORTS_PER_BLOCK))
    for ((port = base; port < base + PORTS_PER_BLOCK; port++)); do
      if [[ -n ${taken[$port]:-} ]]; then continue 2; fi
    done
    PORT_GCS=$base
    PORT_NODE_MANAGER=$((base + 1))
    PORT_OBJECT_MANAGER=$((base + 2))
    PORT_RUNTIME_ENV=$((base + 3))
    PORT_AGENT_GRPC=$((base + 4))
    PORT_AGENT_HTTP=$((base + 5))
    PORT_METRICS=$((base + 6))
    PORT_CLIENT=$((base + 7))
    # Ray's own workers: one port for each actor of a node.
    PORT_WORKER_FIRST=$((base + 20))
    PORT_WORKER_LAST=$((base + PORTS_PER_BLOCK - 1))
    export PORT_GCS PORT_NODE_MANAGER PORT_OBJECT_MANAGER PORT_RUNTIME_ENV PORT_AGENT_GRPC PORT_AGENT_HTTP \
      PORT_METRICS PORT_CLIENT PORT_WORKER_FIRST PORT_WORKER_LAST
    return 0
  done
  echo "$(hostname): no $PORTS_PER_BLOCK free ports in a row between $PORTS_FIRST and 32400" >&2
  return 1
}
