"""What a model in transformers says of pairs of responses."""

import numpy as np


def pair_gaps(folder, store, items):
    """Return log p(chosen) - log p(rejected) of each item's pair, summed over the trained tokens, [items]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    gaps = []
    for item in items:
        sums = []
        for document in store.documents(item):
            ids = torch.from_numpy(document.input_ids.astype(np.int64))
            with torch.no_grad():
                table = model(ids[None]).logits[0, :-1].log_softmax(-1)
            said = table.gather(1, ids[1:, None])[:, 0]
            sums.append(float((said * torch.from_numpy(document.loss_mask[:-1])).sum()))
        gaps.append(sums[0] - sums[1])
    return np.array(gaps)
