"""Documents as packs of one, and several laid end to end into one micro-batch.

Mask and extras are shifted once, where a document is made. Shapes: n tokens of one document, T tokens of the
micro-batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nemo_cascade.errors import RolloutError
from nemo_cascade.types import Float32, Int32, PackedBatch, RoutedExperts, Trajectory


def make_document(
    token_ids: Int32,
    trained: NDArray[np.uint8],
    extras: Mapping[str, Float32] | None = None,
    routed_experts: RoutedExperts | None = None,
) -> PackedBatch:
    """Return one training sample as a pack of its own.

    Args:
        token_ids: [n].
        trained: [n], 1 where the token is predicted for a loss.
        extras: further [n] arrays, the value that belongs to predicting each token.
        routed_experts: [n, layers with experts, experts of a token], to be replayed; not shifted: a token is sent to
            its experts where it is read.
    """
    shifted = {name: _before(values) for name, values in (extras or {}).items()}
    boundaries = np.array([0, len(token_ids)], np.int32)
    return PackedBatch(token_ids, _before(trained), boundaries, shifted, routed_experts)


def sampled_document(
    trajectory: Trajectory, extras: Mapping[str, Float32], trained: bool = True, replay: bool = False
) -> PackedBatch:
    """Make a document of a trajectory: what was sampled is trained, what was given isn't.

    Args:
        trajectory: its tokens are taken as they are.
        extras: values of its tokens, each [n].
        trained: False keeps it in the batch without gradient.
        replay: the engine's choices of experts are replayed.

    Raises:
        RolloutError: the engine told no choices.
    """
    routed = trajectory.routed_experts if replay else None
    if replay and routed is None:
        raise RolloutError(
            "a rollout doesn't say which experts its tokens went to",
            value=f"{trajectory.task_id} sample {trajectory.sample}",
            limit="routed_experts, which router_replay.enabled=true replays",
            mend="set router_replay.enabled=false, or have the engine return them",
        )
    mask = trajectory.trained
    return make_document(trajectory.token_ids, mask if trained else np.zeros_like(mask), extras, routed)


def lay_out(documents: Sequence[PackedBatch]) -> PackedBatch:
    """Lay documents end to end, without padding: that is the layout's business (`training.micro_batch`).

    Args:
        documents: at least one, each a pack of its own, all with the same extras, all or none with experts.
    """
    cu_seqlens = np.concatenate([[0], np.cumsum([d.num_tokens for d in documents])]).astype(np.int32)
    names = documents[0].extras.keys()
    assert all(d.extras.keys() == names for d in documents), "documents with different extras in one micro-batch"
    routed = [d.routed_experts for d in documents if d.routed_experts is not None]
    assert len(routed) in (0, len(documents)), "experts are replayed of all documents of a micro-batch, or of none"
    return PackedBatch(
        input_ids=np.concatenate([d.input_ids for d in documents], dtype=np.int32),
        loss_mask=np.concatenate([d.loss_mask for d in documents], dtype=np.float32),
        cu_seqlens=cu_seqlens,
        extras={name: np.concatenate([d.extras[name] for d in documents], dtype=np.float32) for name in names},
        routed_experts=np.concatenate(routed) if routed else None,
        borrowed=_borrowed(documents),
    )


def share_prompt(documents: Sequence[PackedBatch]) -> list[PackedBatch]:
    """Return documents that begin alike with that beginning in the first one alone; the others borrow it.

    What is left out of a document is what it has in common with the first, up to where its first label is trained: so
    each keeps the token that its response is predicted from.

    Args:
        documents: each a pack of its own; they stand in this order, nothing between them.
    """
    first, *others = documents
    shared = [first]
    for document in others:
        room = min(first.num_tokens, document.num_tokens)
        differ = np.flatnonzero(first.input_ids[:room] != document.input_ids[:room])
        trained = np.flatnonzero(document.loss_mask)
        common = min(int(differ[0]) if differ.size else room, int(trained[0]) if trained.size else 0)
        shared.append(_without_first(document, common) if common else document)
    return shared


def _without_first(document: PackedBatch, tokens: int) -> PackedBatch:
    assert document.routed_experts is None, "experts are replayed of whole documents"
    return PackedBatch(
        input_ids=document.input_ids[tokens:],
        loss_mask=document.loss_mask[tokens:],
        cu_seqlens=np.array([0, document.num_tokens - tokens], np.int32),
        extras={name: values[tokens:] for name, values in document.extras.items()},
        borrowed=np.array([tokens], np.int32),
    )


def _borrowed(documents: Sequence[PackedBatch]) -> Int32 | None:
    none = np.zeros(1, np.int32)
    borrowed: Int32 = np.concatenate([none if d.borrowed is None else d.borrowed for d in documents])
    return borrowed if borrowed.any() else None


def dummy_document(extras: Sequence[str] = ()) -> PackedBatch:
    """Make an untrained document that fills a rank's place where there is no data for it."""
    return make_document(
        np.zeros(2, np.int32), np.zeros(2, np.uint8), {name: np.zeros(2, np.float32) for name in extras}
    )


def dummy_beside(batch: PackedBatch) -> PackedBatch:
    """Make an untrained document that can stand in one step with a batch: it has the same extras, and no experts."""
    dummy = dummy_document(tuple(batch.extras))
    if batch.routed_experts is None:
        return dummy
    return replace(dummy, routed_experts=np.full((2, *batch.routed_experts.shape[1:]), -1, np.int16))


def _before(values_n: NDArray[np.uint8] | Float32) -> Float32:
    """Return what belongs to each token where it is predicted: at the token before it; 0 at the last."""
    shifted_n = np.zeros(len(values_n), np.float32)
    shifted_n[:-1] = values_n[1:]
    return shifted_n
