"""Published throughput of full engines."""

from nemo_cascade.planner.decode import Served
from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.published.tables import hardware_named, shape_named
from nemo_cascade.planner.published.train_rows import Row, Unread

_BYTES = {"FP4": 0.56, "NVFP4": 0.56, "MXFP4": 0.56, "FP8": 1.0, "BF16": 2.0, "FP16": 2.0}


def served_case(row: Row) -> Served | Unread:
    """Return what a row served, or why that isn't known."""
    shape, hardware = shape_named(str(row["model"])), hardware_named(str(row["hardware"]))
    if shape is None or hardware is None:
        return Unread(f"no {'sizes of the model' if shape is None else 'figures of the machine'} are known")
    if not row.get("output_tokens_per_s_per_gpu") or not row.get("input_len"):
        return Unread("no tokens a second and GPU, or no length, published")
    words = str(row.get("weights") or "").split()
    if not words or words[0] not in _BYTES:
        return Unread("number format of the weights not published")
    gpus, layout = int(row["n_gpus"]), str(row.get("layout") or "").rstrip("0123456789")
    size = 0.56 if shape.name.startswith("gpt-oss") else _BYTES[words[0]]  # its experts are released in MXFP4
    tp, ep = int(row.get("tp") or 0), int(row.get("tp") or 0)
    if not tp:
        tp, ep = {"TP": (gpus, gpus), "TEP": (gpus, gpus), "DEP": (1, gpus), "DTP": (1, gpus)}.get(layout, (0, 0))
    if not tp:
        return Unread("layout not published")
    engine = Engine(shape, hardware, tp, ep, size, 1.0 if size < 2 else 2.0)
    if engine.stored > 0.93 * hardware.memory_gb * 1e9:
        return Unread("the weights would not fit as published")
    requests = float(row.get("concurrency") or row.get("n_requests") or 1e9) * tp / gpus
    return Served(
        engine, float(row["input_len"]), float(row["output_len"]), requests, str(row["framework"]).split(" (")[0]
    )
