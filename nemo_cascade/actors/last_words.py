"""What a dead actor wrote last, on whatever node it died."""

from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError

from nemo_cascade.actors.actor import MemberInfo
from nemo_cascade.actors.placement import on_node

LAST_BYTES = 2000
FETCH_DEADLINE_S = 15.0


def last_words(info: MemberInfo, machine: str) -> str:
    """Return the end of what a dead actor wrote to stderr, or why it can't be had.

    Args:
        info: what the actor said about itself while it lived.
        machine: this process's; on another one a task on the actor's node reads the file.
    """
    if info.log is None:
        return "it kept no log: look for the kernel's OOM killer"
    if info.machine == machine:
        text = end_of(info.log)
    else:
        read = ray.remote(end_of).options(num_cpus=0, scheduling_strategy=on_node(info.node_id))
        try:
            text = ray.get(read.remote(info.log), timeout=FETCH_DEADLINE_S)
        except (GetTimeoutError, RayError):
            return f"its words can't be had: node {info.host} does not answer; there, look at {info.log}"
    where = f" (on {info.host}, {info.log})" if info.machine != machine else ""
    if not text:
        return f"it left no last words{where}: look for the kernel's OOM killer"
    return f"its last words{where}:\n{text}"


def end_of(file: str) -> str:
    """Return the end of a text file, empty if it is gone."""
    try:
        return Path(file).read_bytes()[-LAST_BYTES:].decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
