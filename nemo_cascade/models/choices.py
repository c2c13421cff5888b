"""Choices of experts that come with a batch, checked before a router replays them (arXiv 2510.11370)."""

import numpy as np

from nemo_cascade.errors import TrainingError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.types import PackedBatch


def check_replay(batch: PackedBatch, arch: Architecture) -> None:
    """Refuse choices of experts that this model can't have made.

    Raises:
        TrainingError: the model has no experts, or the choices have another shape, name experts that there aren't, or
            one of them twice.
    """
    routed = batch.routed_experts
    if routed is None:
        return
    mend = "the engine is of another model than the trainer: look at where both start from"
    if arch.experts is None:
        what = "a model without experts has no choices to replay"
        raise TrainingError(what, value=f"routed_experts {list(routed.shape)}", mend="set router_replay.enabled=false")
    shape = (batch.num_tokens, len(arch.expert_layers), arch.experts.chosen)
    if routed.shape != shape or routed.dtype != np.int16:
        value, limit = (
            f"{routed.dtype} {list(routed.shape)}",
            f"int16 {list(shape)}: tokens, layers, experts",
        )
        what = "choices of experts of another shape than the model makes"
        raise TrainingError(what, value=value, limit=limit, mend=mend)
    ordered = np.sort(routed, axis=-1)
    given = ordered[..., -1] >= 0
    wrong = (ordered[..., 0] < 0) | (ordered[..., -1] >= arch.experts.count) | (np.diff(ordered) == 0).any(-1)
    mixed = given.any(-1) != given.all(-1)
    if (wrong & given).any() or mixed.any():
        token = int(np.argmax((wrong & given).any(-1) | mixed))
        raise TrainingError(
            "choices of experts that the model can't have made",
            value=f"token {token} of a micro-batch: {routed[token].tolist()}",
            limit=f"{arch.experts.chosen} different ones below {arch.experts.count} in each layer, or -1 in all",
            mend=mend,
        )
