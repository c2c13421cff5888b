# shellcheck shell=bash
# The course of one job, sourced by the rendered job.sbatch, which sets the variables (see job.sbatch.j2).
#
# allocation -> (judge) -> cascade, with Ray under it -> done | requeue
# Shortly before the wall time, or where a node is lost, the run stops and the job is requeued; the run folder tells the
# next start where to go on.

# shellcheck source=phases.sh
source "$SLURM_FOLDER/phases.sh"

PAUSED=75 # as `nemo-cascade run` ends when another job is to go on
POLL_S=0.5
END_S=45    # longest that the steps beside the run may take to end
PROBE_S=30  # a node that can't start a step within this is lost

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${nodes[0]}
judge_node=''
# shellcheck disable=SC2153 # set by job.sbatch
if ((${#JUDGE[@]})); then judge_node=${nodes[-1]}; fi
workers=$((SLURM_JOB_NUM_NODES - 1 - (${#JUDGE[@]} > 0)))

attempt=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
export JOB_FOLDER=$SLURM_FOLDER/jobs/$attempt
export LOG_FOLDER=$RUN_FOLDER/logs/$attempt
rm -rf "$JOB_FOLDER"
mkdir -p "$JOB_FOLDER" "$LOG_FOLDER"

# When the job ends, seconds since 1970: Slurm tells it by itself only from 23.02 on.
if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then
  job_end=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e) && job_end=$(date --date="$job_end" +%s 2>/dev/null) || job_end=''
  export SLURM_JOB_END_TIME=$job_end
fi
NODE_ADDRESSES=$(scontrol show node "$SLURM_JOB_NODELIST" --oneliner |
  sed -n 's/^NodeName=\([^ ]*\) .* NodeAddr=\([^ ]*\) .*/\1=\2/p' | tr '\n' ' ')
export NODE_ADDRESSES

# Other users must not be able to talk to the job's Ray: its token is readable by us alone.
export RAY_AUTH_TOKEN_PATH=$JOB_FOLDER/token
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# step NAME COUNT NODES ROLE COMMAND ...: become one step on COUNT of the nodes in the container; for subshells.
step() {
  local name=$1 count=$2 where=$3
  shift 3
  exec srun --overlap --kill-on-bad-exit=1 --cpu-bind=none --mem=0 --job-name="$name" --nodes="$count" --ntasks="$count" \
    --ntasks-per-node=1 --nodelist="$where" "${ON_NODE[@]}" "${IN_CONTAINER[@]}" \
    env "${ENVIRONMENT[@]}" bash "$SLURM_FOLDER/node.sh" "$@"
}

# answers NODE ...: whether all of them still start a step.
answers() {
  local list
  list=$(IFS=,; echo "$*")
  timeout "$PROBE_S" srun --overlap --mem=0 --job-name=probe --nodes="$#" --ntasks="$#" --ntasks-per-node=1 \
    --nodelist="$list" true >/dev/null 2>&1
}

others=()
# end_others: let the steps beside the run end by themselves, and then see to it.
end_others() {
  local other end=$((SECONDS + END_S))
  touch "$JOB_FOLDER/ended"
  for other in "${others[@]}"; do
    while kill -0 "$other" 2>/dev/null && ((SECONDS < end)); do sleep 0.2 || true; done
    if kill -0 "$other" 2>/dev/null; then kill -TERM "$other" 2>/dev/null || true; fi
  done
}

requeue() {
  ((${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)) || fail "restarted $MAX_RESTARTS times already; submit it again to go on"
  phase "requeue ($1)"
  scontrol requeue "$SLURM_JOB_ID"
  # Slurm ends this script with the job.
  exit 0
}

# Shortly before the wall time (--signal=B:USR1@...): the run saves at its step's end and pauses.
stop_by=''
# shellcheck disable=SC2329 # a trap calls it
pause_run() {
  [[ -z $stop_by ]] || return 0
  note "the wall time is near: the run is asked to pause"
  touch "$JOB_FOLDER/pause"
  # A step that takes longer is given up, and repeated by the next start.
  stop_by=$((SECONDS + STOP_BEFORE_S * 3 / 4))
}
trap pause_run USR1

# answers_http URL: whether a server says 200 there.
answers_http() {
  local host port line=''
  IFS=: read -r host port <<<"${1%%/*}"
  { exec 3<>"/dev/tcp/$host/$port"; } 2>/dev/null || return 1
  printf 'GET /%s HTTP/1.0\r\nHost: %s\r\n\r\n' "${1#*/}" "$host" >&3
  read -r -t 10 line <&3 || true
  exec 3>&-
  [[ $line == *" 200 "* ]]
}

phase "allocation"
note "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), nodes: ${nodes[*]}, logs: $LOG_FOLDER"

if [[ -n $judge_node ]]; then
  phase "judge"
  judge_address=$(step address 1 "$judge_node" address):$JUDGE_PORT
  step judge 1 "$judge_node" judge "${JUDGE[@]}" &
  judge=$!
  others+=("$judge")
  judge_by=$((SECONDS + JUDGE_DEADLINE_S))
  until answers_http "$judge_address/v1/models"; do
    kill -0 "$judge" 2>/dev/null || fail "the judge ended before it answered"
    ((SECONDS < judge_by)) || fail "the judge did not answer at http://$judge_address/v1/models within $JUDGE_DEADLINE_S s"
    sleep "$POLL_S" || true
  done
  note "the judge answers at http://$judge_address/v1"
  RUN+=("reward.genrm.url=http://$judge_address/v1")
fi

phase "cascade"
step run 1 "$head_node" head "${RUN[@]}" &
run=$!
if ((workers)); then
  step workers "$workers" "$(IFS=,; echo "${nodes[*]:1:workers}")" worker &
  others+=($!)
fi

# The run's end decides. What it needs and what ends under it is a lost node, or a failure.
lost=''
while kill -0 "$run" 2>/dev/null; do
  for other in "${others[@]}"; do
    if [[ -z $lost ]] && ! kill -0 "$other" 2>/dev/null; then
      lost=1
      touch "$JOB_FOLDER/stop"
    fi
  done
  if [[ -n $stop_by && ! -e $JOB_FOLDER/stop ]] && ((SECONDS > stop_by)); then
    note "the run has not paused; it goes on from its last checkpoint"
    touch "$JOB_FOLDER/stop"
  fi
  sleep "$POLL_S" || true
done
code=0
wait "$run" || code=$?
end_others

if ((code == PAUSED)); then requeue "the run paused"; fi
if ((code == 0 || code == 3)); then
  phase "done (exit code $code)"
  exit "$code"
fi
if [[ -n $stop_by ]]; then requeue "the wall time"; fi
if ! answers "${nodes[@]}"; then requeue "a node is lost"; fi
if [[ -n $lost ]]; then fail "a part of the job ended while the run needed it; its words are above and in $LOG_FOLDER"; fi
phase "failed (exit code $code; logs: $LOG_FOLDER)"
exit "$code"
