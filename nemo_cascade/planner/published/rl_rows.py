"""Published steps of reinforcement learning."""

import re

from nemo_cascade.config.layout import Layout
from nemo_cascade.planner.engine import Engine
from nemo_cascade.planner.fitted import estimates, shipped
from nemo_cascade.planner.job import Job, Recompute, Software
from nemo_cascade.planner.published.tables import hardware_named, shape_named
from nemo_cascade.planner.published.train_rows import Row, Unread
from nemo_cascade.planner.quantity import TRAIN
from nemo_cascade.planner.rollouts import RlStep

_PROMPT = 0.1  # of a sample's tokens: the tables print the sum only


def rl_step(row: Row) -> RlStep | Unread:
    """Return the step of a row, or why there is none."""
    shape, hardware = shape_named(str(row["model"])), hardware_named(str(row["hardware"]))
    if shape is None or hardware is None:
        return Unread(f"no {'sizes of the model' if shape is None else 'figures of the machine'} are known")
    of_batch = ("samples_per_step", "mean_total_len", "train_max_len", "train_gbs")
    needed = ("n_gpus", *of_batch, "gen_tp", "tp", "step_time_s")
    if lacking := [key for key in needed if not row.get(key)]:
        return Unread(f"{', '.join(lacking)} not published")
    lag = str(row.get("policy_lag")).lower()
    together = "on policy" in lag or "off" not in lag
    gpus, gen_tp = float(row["n_gpus"]), int(row["gen_tp"])
    tp, pp, cp, ep = (int(row.get(key) or 1) for key in ("tp", "pp", "cp", "ep"))
    train = gpus if together else gpus / 2  # the tables don't print the split
    train = max(train, float(tp * pp * cp))
    generating = gpus if together else max(gpus - train, float(gen_tp))
    low = "FP8" in str(row.get("precision"))
    layout = Layout(tp=tp, pp=pp, cp=cp, ep=ep, dp=max(1, int(train) // (tp * pp * cp)), sp=tp > 1)
    sequence, mean_total = int(row["train_max_len"]), float(row["mean_total_len"])
    updates = float(row["samples_per_step"]) / float(row["train_gbs"])
    packs = float(row["train_gbs"]) * mean_total / sequence
    job = Job(
        shape=shape,
        hardware=hardware,
        layout=layout,
        sequence=sequence,
        micro_batches=max(1, round(packs / layout.dp)),
        context=min(float(sequence), mean_total),
        precision="fp8" if low else "bf16",
        task="rl",
        recompute=Recompute(whole=True),
        software=Software(dispatcher="deduplicated"),
    )
    train_s = estimates(TRAIN, shipped("train"), [job])[0].value
    engine = Engine(shape, hardware, gen_tp, gen_tp, 1.0 if low else 2.0)
    return RlStep(
        job=job,
        updates=updates,
        train_s=train_s,
        engine=engine,
        engines=max(1.0, generating / gen_tp),
        samples=float(row["samples_per_step"]),
        prompt=_PROMPT * mean_total,
        mean=(1 - _PROMPT) * mean_total,
        longest=float(sequence),
        together=together,
        lag=0 if together else int(found[1]) if (found := re.match(r"(\d+)-step", lag)) else 1,
        software=str(row["framework"]).split(" ")[0],
        low=low,
    )
