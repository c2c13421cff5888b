"""The same examination on every node of the allocation that this process runs in, and whether their clocks agree."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from nemo_cascade.cli.examination.finding import Finding, asked
from nemo_cascade.errors import RuntimeUnavailableError

_EXAMINE_S = 300.0
_SKEW_S = 1.0
_ON_NODE = ("srun", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1")


def all_nodes() -> list[str]:
    """Return the names of the allocation's nodes.

    Raises:
        RuntimeUnavailableError: this process runs in none.
    """
    listed = os.environ.get("SLURM_JOB_NODELIST")
    names = asked(["scontrol", "show", "hostnames", listed]) if listed else None
    if not names:
        mend = "salloc --nodes=N, and there nemo-cascade doctor --all-nodes"
        raise RuntimeUnavailableError("there is no allocation here", value="SLURM_JOB_NODELIST", mend=mend)
    return names.split()


def examine(nodes: Sequence[str], arguments: Sequence[str]) -> Iterator[Finding]:
    """Examine every node at once; a finding that all of them have is told once.

    Args:
        nodes: their names.
        arguments: of `nemo-cascade doctor` on each.
    """
    doctor = [sys.executable, "-m", "nemo_cascade", "doctor", "--json", *arguments]
    running = {
        node: subprocess.Popen(
            [*_ON_NODE, f"--nodelist={node}", *doctor], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for node in nodes
    }
    found: dict[Finding, list[str]] = {}
    end = time.monotonic() + _EXAMINE_S
    for node, process in running.items():
        for finding in _told(process, max(1.0, end - time.monotonic())):
            found.setdefault(finding, []).append(node)
    for finding, where in found.items():
        place = f"all {len(nodes)} nodes" if len(where) == len(nodes) else ", ".join(where)
        yield Finding(f"{finding.subject} ({place})", finding.state, finding.detail, finding.mend)
    yield from clocks(nodes)


def _told(process: subprocess.Popen[str], deadline_s: float) -> list[Finding]:
    try:
        output, errors = process.communicate(timeout=deadline_s)
        return [Finding(**entry) for entry in json.loads(output)["facts"]["findings"]]
    except subprocess.TimeoutExpired:
        process.kill()
        return [Finding("node", "bad", f"no answer within {_EXAMINE_S:g} s", "drain it")]
    except (ValueError, TypeError, KeyError):
        return [Finding("node", "bad", " ".join(errors.split())[-300:] or "no answer", "look at it by srun")]


def clocks(nodes: Sequence[str]) -> Iterator[Finding]:
    """Compare each node's clock with this one's, as exactly as a step's start allows."""
    worst, doubt, answered = 0.0, 0.0, 0
    for node in nodes:
        before = time.time()
        told = asked([*_ON_NODE, f"--nodelist={node}", "date", "+%s.%N"])
        after = time.time()
        if told is None:
            yield Finding("clock", "bad", f"{node} does not answer", "drain it")
            continue
        # Its clock was read somewhere between the two: what can't be explained by that is skew.
        skew = max(float(told) - after, before - float(told), 0.0)
        doubt, answered = max(doubt, after - before), answered + 1
        worst = max(worst, skew)
        if skew > _SKEW_S:
            mend = "chrony or ntpd on all nodes: Slurm's and Ray's tokens have times in them"
            yield Finding("clock", "bad", f"{node} is off by {skew:.1f} s at least", mend)
    if answered and worst <= _SKEW_S:
        yield Finding("clock", "ok", f"no node off by more than {worst + doubt:.1f} s")
