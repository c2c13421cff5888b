"""metrics.jsonl: exact, ordered, resumable, and robust against a crash in the middle of a line."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from nemo_cascade.errors import RunFolderError, TrainingError
from nemo_cascade.telemetry.metrics import MetricsLog, read_metrics


def test_every_float_reads_back_to_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    raw = [struct.unpack("<d", rng.bytes(8))[0] for _ in range(2000)]
    values = {f"v{i}": x for i, x in enumerate(raw) if np.isfinite(x)}
    values |= {
        "f32": np.float32(0.1),
        "tiny": 5e-324,
        "minus_zero": -0.0,
        "big": 2**63,
        "seconds": {"train": 0.1 + 0.2},
    }
    log = MetricsLog(tmp_path / "m.jsonl")
    log.log(1, values)
    back = log.read()[0]
    assert back.pop("step") == 1
    assert back.pop("seconds") == {"train": 0.1 + 0.2}
    for name, value in back.items():
        assert struct.pack("<d", value) == struct.pack("<d", values[name]), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_a_value_that_is_not_finite_is_refused_by_name_and_leaves_no_line(tmp_path, bad):
    log = MetricsLog(tmp_path / "m.jsonl")
    with pytest.raises(TrainingError, match="`grad_norm`"):
        log.log(1, {"loss": 1.0, "grad_norm": bad})
    with pytest.raises(TrainingError, match=r"`seconds\.train`"):
        log.log(1, {"seconds": {"train": bad}})
    assert log.read() == []
    log.log(1, {"loss": None})
    assert log.read() == [{"step": 1, "loss": None}]


def test_only_numbers_go_in(tmp_path):
    with pytest.raises(TrainingError, match="`loss` isn't a number"):
        MetricsLog(tmp_path / "m.jsonl").log(1, {"loss": [1.0]})


def test_steps_rise_and_a_resume_cuts_the_rest_off(tmp_path):
    path = tmp_path / "stage" / "m.jsonl"
    log = MetricsLog(path)
    for step in range(1, 8):
        log.log(step, {"loss": step / 3})
    with pytest.raises(TrainingError, match="in order"):
        log.log(7, {"loss": 0.0})
    before = path.read_bytes()
    log = MetricsLog(path)
    assert log.read()[-1]["step"] == 7
    assert log.truncate_from(5) == 3
    assert path.read_bytes() == b"".join(before.splitlines(keepends=True)[:4])
    for step in range(5, 8):
        log.log(step, {"loss": step / 3})
    assert path.read_bytes() == before
    assert log.truncate_from(8) == 0


def test_a_line_cut_short_by_a_crash_is_dropped_wherever_it_was_cut(tmp_path):
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    log.log(1, {"loss": 0.5})
    log.log(2, {"loss": 0.25})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert [r["step"] for r in read_metrics(path)] == ([1, 2] if cut == len(whole) - 1 else [1])
        reopened = MetricsLog(path)
        reopened.truncate_from(2)
        reopened.log(2, {"loss": 0.25})
        assert path.read_bytes() == whole


def test_damage_before_the_last_line_is_refused_with_its_number(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step":1}\n{"step":\n{"step":3}\n')
    with pytest.raises(RunFolderError, match="line 2"):
        MetricsLog(path)
    path.write_text('{"step":1}\n{"step":1}\n')
    with pytest.raises(RunFolderError, match=r"line 2 .* wrong step"):
        MetricsLog(path)


def test_a_killed_writer_leaves_a_log_that_goes_on(tmp_path):
    path = tmp_path / "m.jsonl"
    script = (
        "import sys, os, signal; from pathlib import Path\n"
        "from nemo_cascade.telemetry.metrics import MetricsLog\n"
        "log = MetricsLog(Path(sys.argv[1]))\n"
        "for step in range(1, 10**6):\n"
        "    log.log(step, {'loss': 1 / step, 'text': 'x' * 2000})\n"
        "    step == 20 and os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, env={**os.environ}, timeout=60)
    log = MetricsLog(path)
    assert log.read()[-1]["step"] == 20
    log.log(21, {"loss": 0.0})
    assert len(log.read()) == 21
