# shellcheck shell=bash
# Log lines that tell where a job's time goes, and an end that says which phase it came in.

PHASE_START=$SECONDS
PHASE_NAME=start

# phase NAME: one line with the time of day, seconds since the job began and seconds that the last phase took.
phase() {
  printf '[%(%Y-%m-%d %H:%M:%S)T +%ds] phase %s (%s took %ds)\n' -1 "$SECONDS" "$1" "$PHASE_NAME" \
    "$((SECONDS - PHASE_START))"
  PHASE_START=$SECONDS
  PHASE_NAME=$1
}

# note TEXT: a line within the phase.
note() {
  printf '[%(%Y-%m-%d %H:%M:%S)T +%ds] %s: %s\n' -1 "$SECONDS" "$PHASE_NAME" "$1"
}

# fail TEXT: say what went wrong and in which phase, and end.
fail() {
  note "FAILED: $1" >&2
  exit 1
}
