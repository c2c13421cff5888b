"""Verifiers that misbehave on request: what the pool is tested with."""

import os
import signal
import sys
import time
from pathlib import Path

from nemo_cascade.rewards.verifier import Golden, VerifierError


class Probe:
    """Do what the row says: return its score, hang, die, raise, eat memory, leave a child behind."""

    golden = (Golden("", 1.0, {"do": "score", "score": 1.0}),)

    def verify(self, record, response):
        act = record.get("do", "score")
        if act == "hang":
            while True:
                pass
        if act == "sleep":
            if "mark" in record:
                Path(record["mark"]).touch()
            time.sleep(record["seconds"])
        if act == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if act == "die_once" and not os.path.exists(record["mark"]):
            Path(record["mark"]).touch()
            os._exit(3)
        if act == "raise":
            raise ZeroDivisionError("probe")
        if act == "refuse":
            raise VerifierError("record", "probe refuses")
        if act == "nan":
            return float("nan")
        if act == "memory":
            bytearray(16 << 30)
        if act == "leave_child":
            if os.fork() == 0:
                time.sleep(600)
            Path(record["mark"]).write_text(str(os.getpid()))
            while True:
                pass
        if act == "modules":
            return float(any(name in sys.modules for name in ("torch", "ray", "vllm", "megatron")))
        if act == "process":
            return float(os.getpid())
        if act == "length":
            return float(len(response.text))
        return record.get("score", 0.0)


class WrongGolden(Probe):
    golden = (
        Golden("first", 1.0, {"score": 0.0}),
        Golden("second", 1.0, {"score": 1.0}),
        Golden("third", 0.0, {"do": "raise"}),
    )


class Broken(Probe):
    def __init__(self):
        raise ZeroDivisionError("no constructor")


class Threaded(Probe):
    def __init__(self):
        import threading

        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
