#!/usr/bin/env bash
# What runs on a node, inside its container: Ray's head with the run beside it, one of Ray's workers, or a judge.
#
# usage: node.sh address | head COMMAND ... | worker | judge COMMAND ... | watch PID FOLDER
#
# Head and run are one step, so they have one container, one /tmp and one set of processes: Ray's driver finds its
# raylet by a socket in /tmp.
# What it is asked to do while it runs stands as a file in JOB_FOLDER: pause, stop, ended. Signals won't do: with cgroups
# Slurm sends them to every process of a step, and Ray's would die of them.
# Reads JOB_FOLDER and LOG_FOLDER (on a file system that all nodes see), NODE_ADDRESSES, GPUS_PER_NODE,
# OBJECT_STORE_MIB, START_DEADLINE_S, RAY_AUTH_TOKEN_PATH.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=phases.sh
source "$here/phases.sh"
# shellcheck source=ports.sh
source "$here/ports.sh"

PAUSED=75 # as `nemo-cascade run` ends when another job is to go on
LOGS_EVERY_S=15
POLL_S=0.5
RAY_TRIES=3
ray=''
copier=''
node=${SLURMD_NODENAME:-$(hostname)}

# addresses: what this node may be called by others, likeliest first.
addresses() {
  local name told
  told=$(tr ' ' '\n' <<<"${NODE_ADDRESSES:-}" | sed -n "s/^$node=//p")
  # As Slurm's administrator wrote it down; then by its names; then whatever its network cards have.
  for name in ${told:+"$told"} "$node" "$(hostname)"; do
    { getent ahostsv4 "$name" 2>/dev/null || true; } | awk '{print $1}'
  done
  hostname --all-ip-addresses 2>/dev/null || true
  hostname --ip-address 2>/dev/null || true
}

# own_address: the first of them that leads here from other machines: not 127.x, which Debian's /etc/hosts gives.
own_address() {
  addresses | tr -s ' ' '\n' | grep -E '^[0-9]+(\.[0-9]+){3}$' | grep -v -m1 -E '^(127|169\.254|0)\.' ||
    fail "$node has no IPv4 address that others can reach, only: $(addresses | tr -s ' \n' ' ')"
}

# plan_ray NODE_INDEX: choose folder, ports and options of Ray on this node.
plan_ray() {
  plan_ports "$SLURM_JOB_ID" "$1"
  # Sockets lie below this folder, and the path of a socket has 107 bytes.
  ray_folder=/tmp/cascade-$SLURM_JOB_ID-$node
  rm -rf "$ray_folder"
  ray_options=(
    --temp-dir="$ray_folder"
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
    --include-log-monitor=false
    --disable-usage-stats
    --block
  )
  # Other users of the nodes must not be able to give commands to this Ray.
  export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
  # A node whose link is cut hears no end of its connections: it has to ask, and then ends what runs on it.
  export RAY_grpc_client_keepalive_time_ms=30000 RAY_grpc_client_keepalive_timeout_ms=30000
  # As where the run starts Ray by itself (actors/cluster.py): actors choose their GPUs, and have own environments.
  export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_enable_worker_prestart=0
  # A process per actor, with sockets to all others, and files: the default of 1024 is soon too few.
  ulimit -n 65535 2>/dev/null || ulimit -n "$(ulimit -Hn)"
}

# keep_logs: copy what Ray and its actors have written, also those that are dead, to where it outlives this container.
keep_logs() {
  [[ -d $ray_folder/session_latest/logs ]] || return 0
  cp -ru "$ray_folder/session_latest/logs/." "$LOG_FOLDER/$node/" 2>/dev/null || true
}

# was_slow: whether Ray gave itself up only because it was not up within the 30 s that it has.
was_slow() {
  grep -q "timed out during startup" "$LOG_FOLDER/$node/ray-start.out"
}

# start_ray OPTION ...: start Ray in the background, wait until it is up, and copy its logs from time to time. A head
# that a hundred nodes join at once may be too slow for some of them, so it is tried again: until the deadline where it
# was only slow, three times otherwise.
start_ray() {
  local try=0 end=$((SECONDS + START_DEADLINE_S))
  mkdir -p "$LOG_FOLDER/$node"
  trap "trap '' TERM; stop_ray" EXIT
  setsid bash "$here/node.sh" watch "$$" "$ray_folder" </dev/null >/dev/null 2>&1 &
  while ((SECONDS < end)) && { ((try < RAY_TRIES)) || was_slow; }; do
    try=$((try + 1))
    # Each its own process group, or the signals that Slurm sends to this step's would reach it before we do.
    set -m
    ray start "$@" "${ray_options[@]}" >"$LOG_FOLDER/$node/ray-start.out" 2>&1 &
    ray=$!
    set +m
    while kill -0 "$ray" 2>/dev/null && ((SECONDS < end)); do
      if grep -q "Ray runtime started" "$LOG_FOLDER/$node/ray-start.out"; then
        (while sleep "$LOGS_EVERY_S"; do keep_logs; done) &
        copier=$!
        return 0
      fi
      if [[ -e $JOB_FOLDER/pause ]]; then exit "$PAUSED"; fi
      if [[ -e $JOB_FOLDER/stop || -e $JOB_FOLDER/ended ]]; then exit 143; fi
      sleep "$POLL_S" || true
    done
    last_words ray-start.out
    note "Ray did not start on $node, try $try; its last words are above" >&2
    stop_ray
  done
  fail "Ray did not start on $node"
}

# stop_ray: end Ray with all its actors, keep the logs, remove its files.
stop_ray() {
  if kill -0 "$ray" 2>/dev/null; then kill -TERM "$ray"; fi
  local end=$((SECONDS + 15))
  while kill -0 "$ray" 2>/dev/null && ((SECONDS < end)); do sleep 0.2; done
  if [[ -n $copier ]]; then kill "$copier" 2>/dev/null || true; fi
  end_strays
  keep_logs
  rm -rf "$ray_folder"
}

# end_strays: end what still holds files of this Ray. Ray starts its processes in sessions of their own, so that they
# outlive a killed parent, and without cgroups Slurm doesn't find them either.
end_strays() {
  local process
  for process in $(grep -lsa -e "--temp-dir=$ray_folder" /proc/[0-9]*/cmdline | cut -d/ -f3) \
    $(find /proc/[0-9]*/fd -lname "$ray_folder/*" 2>/dev/null | cut -d/ -f3 | sort -u); do
    kill -KILL "$process" 2>/dev/null || true
  done
}

# watch PID FOLDER: end what is left of a Ray whose node.sh was killed before it could; runs in a session of its own,
# where Slurm without cgroups doesn't find it.
watch() {
  ray_folder=$2
  while kill -0 "$1" 2>/dev/null; do sleep "$POLL_S"; done
  end_strays
  rm -rf "$ray_folder"
}

# last_words NAME: the end of one of this node's logs.
last_words() {
  tail -n 15 "$LOG_FOLDER/$node/$1" | sed "s/^/    $node: /" >&2
}

# reachable HOST:PORT: whether something listens there.
reachable() {
  timeout 10 bash -c "exec 3<>/dev/tcp/${1/://}" 2>/dev/null
}

run_head() {
  local address code=0 driver='' request
  local -A asked=()
  trap 'touch "$JOB_FOLDER/stop"' TERM
  address=$(own_address)
  plan_ray 0
  address=$address:$PORT_GCS
  start_ray --head --node-ip-address="${address%:*}" --port="$PORT_GCS" --include-dashboard=false \
    --ray-client-server-port="$PORT_CLIENT" --no-monitor
  echo "$address" >"$JOB_FOLDER/ray.new"
  mv "$JOB_FOLDER/ray.new" "$JOB_FOLDER/ray"
  note "Ray is up on $node at $address"
  set -m
  "$@" cluster.ray_address="$address" &
  driver=$!
  set +m
  while kill -0 "$driver" 2>/dev/null; do
    if ! kill -0 "$ray" 2>/dev/null && [[ ! -e $JOB_FOLDER/stop ]]; then
      last_words ray-start.out
      note "FAILED: Ray's head ended on $node while the run needed it" >&2
      touch "$JOB_FOLDER/stop"
    fi
    for request in pause=USR1 stop=TERM; do
      if [[ -e $JOB_FOLDER/${request%=*} && -z ${asked[$request]:-} ]]; then
        asked[$request]=1
        kill -"${request#*=}" "$driver" 2>/dev/null || true
      fi
    done
    sleep "$POLL_S" || true
  done
  wait "$driver" || code=$?
  # 128 + SIGUSR1: it was asked to pause before it could listen.
  if ((code == 138)); then code=$PAUSED; fi
  exit "$code"
}

run_worker() {
  local address end=$((SECONDS + START_DEADLINE_S))
  trap 'exit 0' TERM
  until [[ -s $JOB_FOLDER/ray ]]; do
    if [[ -e $JOB_FOLDER/ended ]]; then exit 0; fi
    ((SECONDS < end)) || fail "Ray's head did not come up within $START_DEADLINE_S s; $node waited for it"
    sleep "$POLL_S"
  done
  address=$(<"$JOB_FOLDER/ray")
  # Before Ray itself tries for a minute.
  reachable "$address" || fail "$node can't reach Ray's head at $address: a firewall, or an address of another network"
  plan_ray "$((1 + ${SLURM_NODEID:-0}))"
  start_ray --address="$address" --node-ip-address="$(own_address)"
  while kill -0 "$ray" 2>/dev/null; do
    if [[ -e $JOB_FOLDER/ended ]]; then exit 0; fi
    sleep "$POLL_S" || true
  done
  if [[ -e $JOB_FOLDER/ended ]]; then exit 0; fi
  last_words ray-start.out
  fail "Ray ended on $node while the run needed it"
}

run_judge() {
  local judge
  mkdir -p "$LOG_FOLDER/$node"
  set -m
  "$@" >"$LOG_FOLDER/$node/judge.out" 2>&1 &
  judge=$!
  set +m
  trap 'kill -TERM -- "-$judge" 2>/dev/null; wait "$judge" || true' EXIT
  trap 'exit 0' TERM
  while kill -0 "$judge" 2>/dev/null; do
    if [[ -e $JOB_FOLDER/ended ]]; then exit 0; fi
    sleep "$POLL_S" || true
  done
  last_words judge.out
  fail "the judge ended on $node"
}

role=$1
shift
case $role in
  address) own_address ;;
  head) run_head "$@" ;;
  worker) run_worker ;;
  judge) run_judge "$@" ;;
  watch) watch "$@" ;;
  *) fail "no such role: $role" ;;
esac
