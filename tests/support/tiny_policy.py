"""A tiny policy and tiny packs, made by the tests themselves; importable in the processes that tests start."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nemo_cascade.config.model import ModelConfig, OptimizerConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.types import PackedBatch

VOCAB = 300  # not a multiple of the padding, and padded differently under TP 1 (384) and TP 2 (512)
CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def place(rank: int, world_size: int, port: int, device: str = "cpu") -> dict[str, object]:
    """Return what a worker's constructor takes to be one of so many processes on this machine."""
    return {
        "rank": rank,
        "world_size": world_size,
        "master_addr": "127.0.0.1",
        "master_port": port,
        "device": device,
        "threads": 1,
    }


def write_tiny_folder(folder: Path, seed: int = 0, **changes) -> str:
    """Write an HF folder with random weights; returns its path."""
    from nemo_cascade.models.hf_config import architecture_from_hf
    from nemo_cascade.models.hf_folder import write_hf_folder
    from nemo_cascade.models.rules import hf_shapes

    config = CONFIG | changes
    source = folder.parent / f"{folder.name}-config"
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = (
        (name, torch.ones(shape) if "norm" in name else torch.randn(shape, generator=generator) * 0.08)
        for name, shape in hf_shapes(architecture_from_hf(config)).items()
    )
    write_hf_folder(folder, tensors, source)
    return str(folder)


def policy_setup(
    hf_path: str,
    *,
    tp=1,
    pp=1,
    dp=1,
    sp=False,
    cp=1,
    vpp=1,
    last=None,
    ep=1,
    etp=None,
    dtype="fp32",
    distributed=True,
    objective=None,
    optimizer=None,
    router=None,
    **changes,
):
    """Return a TrainerSetup of the tiny policy."""
    from nemo_cascade.config.router import RouterConfig
    from nemo_cascade.losses.cross_entropy import SftLoss
    from nemo_cascade.training.setup import TrainerSetup, Training

    setup = TrainerSetup(
        hf_path=hf_path,
        model=ModelConfig(name="tiny", path=hf_path),
        parallel=ParallelConfig(
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            virtual_pipeline_model_parallel_size=vpp,
            num_layers_in_last_pipeline_stage=last,
            context_parallel_size=cp,
            data_parallel_size=dp,
            sequence_parallel=sp,
            expert_model_parallel_size=ep,
            expert_tensor_parallel_size=etp,
            use_distributed_optimizer=distributed,
            pad_attention_groups=True,
        ),
        precision=PrecisionConfig(dtype=dtype),
        seq_length=512,
        seed=1234,
        training=Training(
            objective or SftLoss(),
            optimizer or OptimizerConfig(lr=3e-3, lr_warmup_steps=2, weight_decay=0.1, max_skipped_steps=1),
            total_steps=20,
            router=router or RouterConfig(),
        ),
    )
    return replace(setup, **changes)


def make_pack(lengths, seed, extras=()):
    """Return one pack of random documents; the last third of each is trained."""
    rng = np.random.default_rng(seed)
    tokens = sum(lengths)
    ids = rng.integers(0, VOCAB, tokens)
    mask, start = np.zeros(tokens, np.float32), 0
    for length in lengths:
        mask[start + length // 3 : start + length - 1] = 1
        start += length
    return PackedBatch(
        input_ids=ids.astype(np.int32),
        loss_mask=mask,
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        extras={name: _extra(name, rng.normal(size=tokens)) for name in extras},
    )


def make_pairs(lengths, seed):
    """Return one pack of random pairs of documents; of each, only the last token is trained."""
    pack = make_pack([n for pair in lengths for n in pair], seed)
    pack.loss_mask[:] = 0
    pack.loss_mask[pack.cu_seqlens[1:] - 2] = 1
    return pack


def _extra(name, noise):
    # Log-probabilities near those of an untrained model, so that ratios stay near 1.
    return (0.3 * noise - np.log(VOCAB) if name.endswith("logprobs") else noise).astype(np.float32)


def merge_packs(packs):
    """Lay packs end to end in one."""
    shifts = np.cumsum([0] + [pack.num_tokens for pack in packs[:-1]])
    boundaries = [pack.cu_seqlens[1:] + shift for pack, shift in zip(packs, shifts, strict=True)]
    names = packs[0].extras
    return PackedBatch(
        input_ids=np.concatenate([pack.input_ids for pack in packs]),
        loss_mask=np.concatenate([pack.loss_mask for pack in packs]),
        cu_seqlens=np.concatenate([[0], *boundaries]).astype(np.int32),
        extras={name: np.concatenate([pack.extras[name] for pack in packs]) for name in names},
    )


@dataclass(frozen=True)
class TinySource:
    """Four packs of uneven lengths per step, in `micro_batches_per_step` micro-batches over all ranks."""

    micro: int = 4
    seed: int = 0
    extras: tuple = ()

    def packs(self, step):
        shapes = ([30, 18, 5], [64, 3], [41], [7, 9, 11, 13])
        return [make_pack(s, self.seed + 1000 * step + i, self.extras) for i, s in enumerate(shapes)]

    def micro_batches(self, step, dp_rank, dp_size):
        packs, size = self.packs(step), 4 // self.micro
        merged = [merge_packs(packs[i : i + size]) for i in range(0, 4, size)]
        share = len(merged) // dp_size
        return merged[dp_rank * share : (dp_rank + 1) * share]


def make_policy_pairs(lengths, seed):
    """Return one pack of random pairs, of which the last third of each document is trained, as a policy learns them."""
    return make_pack([n for pair in lengths for n in pair], seed, ("reference_logprobs", "rewards"))


def make_rated(lengths, seed):
    """Return one pack of random documents with ratings of three attributes at their last tokens, some missing."""
    pack, rng = make_pairs(lengths, seed), np.random.default_rng(seed)
    ratings = {f"rating_{name}": rng.uniform(0, 4, pack.num_tokens).astype(np.float32) for name in "abc"}
    for k, values in enumerate(ratings.values()):
        values[(np.arange(pack.num_tokens) + k) % 3 == 0] = np.nan
    return replace(pack, extras=ratings)


@dataclass(frozen=True)
class TinyPairs:
    """Four packs of pairs per step; of two ranks, one has three and the other fills up with untrained packs.

    `make` is one of make_pairs, make_policy_pairs and make_rated.
    """

    seed: int = 0
    make: object = make_pairs

    def packs(self, step):
        shapes = ([(30, 18), (5, 9)], [(64, 3)], [(4, 41)], [(7, 9), (11, 13), (8, 8)])
        return [self.make(s, self.seed + 1000 * step + i) for i, s in enumerate(shapes)]

    def micro_batches(self, step, dp_rank, dp_size):
        from nemo_cascade.data.layout import dummy_document, lay_out

        packs = self.packs(step)
        if dp_size == 1:
            return packs
        dummy = lay_out([dummy_document(tuple(packs[0].extras))])
        return packs[:3] if dp_rank == 0 else [packs[3], dummy, dummy]


@dataclass(frozen=True)
class Job:
    """Work for a few of the ranks of one launch: they form a world of their own."""

    name: str
    ranks: tuple
    work: object  # importable function (worker, argument) -> result
    argument: object = None
    device: str = "cpu"


def run_jobs(rank, world_size, port, jobs_and_ports):
    """Run this rank's share of the jobs, in order; returns {job name: result}."""
    from nemo_cascade.training.worker import TrainerWorker

    results = {}
    for job, job_port in jobs_and_ports:
        if rank not in job.ranks:
            continue
        worker = TrainerWorker(**place(job.ranks.index(rank), len(job.ranks), job_port, job.device))
        try:
            results[job.name] = job.work(worker, job.argument)
        finally:
            worker.close()
    return results


def launch_jobs(jobs, world_size=4, deadline_s=200.0):
    """Run jobs in one launch; returns {job name: [result of each of its ranks]}."""
    from nemo_cascade.processes.ports import free_port
    from nemo_cascade.training.launch import run_ranks

    answers = run_ranks(run_jobs, world_size, [(job, free_port()) for job in jobs], deadline_s=deadline_s)
    return {job.name: [answers[rank][job.name] for rank in job.ranks] for job in jobs}
