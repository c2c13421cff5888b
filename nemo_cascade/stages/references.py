"""Log-probabilities of a frozen model, computed once for a set of responses and kept by what both are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.responses import ResponseStore
from nemo_cascade.errors import DataError
from nemo_cascade.storage.hashes import hash_folder, hash_recipe

FORMAT_VERSION = 1
_LOGPROBS = "logprobs.bin"
_ITEMS_AT_ONCE = 256


def reference_logprobs(
    model: TrainerGroup, hf_folder: Path, store: ResponseStore, seq_length: int, kept_in: Path
) -> Path:
    """Return the file of a model's log-probabilities of a store's tokens, float32 [tokens], made unless it is there.

    Args:
        model: ranks that hold the model now.
        hf_folder: the model, whose content names the file.
        store: the responses; at each token stands the log-probability of the next one, 0 at a document's last.
        seq_length: most tokens of a micro-batch.
        kept_in: folder of all such files.

    Raises:
        DataError: a log-probability isn't finite where a token is trained.
    """
    recipe = {
        "format": FORMAT_VERSION,
        "responses": store.folder.name,
        "model": hash_folder(hf_folder),
        "dtype": model.dtype,
    }
    final = kept_in / hash_recipe(recipe)[:32]
    make_folder(final, lambda folder: _write(folder / _LOGPROBS, model, hf_folder, store, seq_length))
    return final / _LOGPROBS


def _write(file: Path, model: TrainerGroup, hf_folder: Path, store: ResponseStore, seq_length: int) -> None:
    with file.open("wb") as out:
        for first in range(0, len(store), _ITEMS_AT_ONCE):
            items = range(first, min(first + _ITEMS_AT_ONCE, len(store)))
            documents = [document for item in items for document in store.documents(item)]
            source = balanced_micro_batches(documents, seq_length, model.parallel.data_parallel_size)
            for document, logprobs_n in zip(documents, source.per_sample(model.logprobs(source, 0)), strict=True):
                if not np.isfinite(logprobs_n[document.loss_mask > 0]).all():
                    mend = "the model can't say these responses: its weights or the tokens are broken"
                    raise DataError("the reference's log-probabilities aren't finite", value=str(hf_folder), mend=mend)
                out.write(logprobs_n.tobytes())
