"""Megatron training equals a plain loop over transformers and torch.optim.AdamW, written without our code."""

import math

import numpy as np
import pytest

from tests.support.tiny_policy import Job, TinySource, launch_jobs, policy_setup, write_tiny_folder

STEPS = 6
LR, WARM_UP, TOTAL, DECAY, CLIP = 3e-3, 2, 20, 0.1, 1.0


def _megatron(worker, setup):
    worker.setup(setup)
    results = [worker.train_step(TinySource(), step) for step in range(STEPS)]
    return [(r.loss, r.grad_norm, r.lr) for r in results]


def _plain(_, hf):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    results = []
    for step in range(STEPS):
        total, trained = torch.zeros(()), 0
        for pack in TinySource().packs(step):
            for a, b in zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True):
                logits = model(torch.from_numpy(pack.input_ids[a:b])[None]).logits[0]
                mask = torch.from_numpy(pack.loss_mask[a:b]) > 0
                labels = torch.from_numpy(pack.labels[a:b]).long()
                total = total + torch.nn.functional.cross_entropy(logits[mask], labels[mask], reduction="sum")
                trained += int(mask.sum())
        loss = total / trained
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        half_circle = math.pi * (step - WARM_UP) / (TOTAL - WARM_UP)
        lr = LR * (step + 1) / WARM_UP if step < WARM_UP else LR * 0.5 * (1 + math.cos(half_circle))
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        results.append((float(loss), float(norm), lr))
    return results


@pytest.mark.distributed
def test_losses_gradient_norms_and_learning_rates_match_a_plain_loop(tmp_path):
    hf = write_tiny_folder(tmp_path / "tiny")
    answers = launch_jobs(
        [Job("ours", (0,), _megatron, policy_setup(hf)), Job("plain", (1,), _plain, hf)], world_size=2
    )
    ours, plain = answers["ours"][0], answers["plain"][0]
    assert plain[0][1] > CLIP  # clipping takes part
    np.testing.assert_allclose(ours, plain, rtol=2e-5)
