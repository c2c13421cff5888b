"""Take an HF model through Megatron-Core and back, in a layout of your choice, and prove that no bit changed.

nemo-cascade convert models/Qwen3-8B-Base /tmp/back --tensor-model-parallel-size 2
"""

import argparse
from collections.abc import Collection
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.config.checks.host import gpu_present
from nemo_cascade.config.model import ModelConfig, ParallelConfig, PrecisionConfig
from nemo_cascade.config.plugins import anchored
from nemo_cascade.errors import CascadeError, ConfigError, ModelError
from nemo_cascade.models.fit import layout_problems, padding_note
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.models.rules import tied_names

TELLS_FACTS = True
TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, metavar="HF_FOLDER", help="config.json, safetensors, tokenizer")
    parser.add_argument("target", type=Path, metavar="NEW_FOLDER", help="where the way back ends; must not exist")
    parser.add_argument("--tensor-model-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument("--pipeline-model-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of the Megatron model (fp32)")
    parser.add_argument("--family", type=anchored, metavar="FILE.py:NAME", help="a family of models of your own")
    parser.add_argument("--deadline-s", type=float, default=1800.0, metavar="SECONDS", help="give up after (1800)")


def execute(args: argparse.Namespace) -> int:
    """Convert there and back over local processes and compare every tensor."""
    architecture = read_architecture(args.source, args.family)
    if min(args.tensor_model_parallel_size, args.pipeline_model_parallel_size) < 1:
        raise ConfigError([CascadeError("a parallel size is at least 1", value="0 or less", mend="give 1 or more")])
    parallel = ParallelConfig(
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
    )
    problems: list[CascadeError | str] = list(layout_problems(architecture, parallel))
    if args.target.exists():
        problems.append(CascadeError("the target exists", value=args.target, mend="name a new folder"))
    if problems:
        raise ConfigError(problems)
    from nemo_cascade.training.launch import run_ranks

    out.print(f"{architecture.family}, {len(architecture.layers)} layers, over {parallel.layout.ranks} process(es)")
    if note := padding_note(architecture, parallel):
        out.print(note)
    run_ranks(
        there_and_back,
        parallel.layout.ranks,
        ModelConfig(name=args.source.name, path=str(args.source), family=args.family),
        str(args.target),
        parallel,
        PrecisionConfig(dtype=args.dtype),
        deadline_s=args.deadline_s,
    )
    different, tensors = compare_folders(args.source, args.target, tied_names(architecture).keys())
    if different:
        raise ModelError(
            f"{len(different)} of {tensors} tensors came back changed",
            value=", ".join(different[:10]),
            limit="bit-identical",
            mend="--dtype fp32, unless the model is stored in bf16" if args.dtype == "bf16" else None,
        )
    tell(folder=str(args.target), tensors=tensors, ranks=parallel.layout.ranks)
    out.print(f"{tensors} tensors came back bit-identical: {escape(str(args.target))}")
    return 0


def there_and_back(
    rank: int,
    world_size: int,
    port: int,
    wanted: ModelConfig,
    target: str,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
) -> None:
    """Load an HF folder into this rank's part of the Megatron model and write it out again. Collective."""
    from nemo_cascade.models.megatron.build import build_model
    from nemo_cascade.models.weights import load_weights, save_hf
    from nemo_cascade.training import runtime

    source = Path(wanted.path or "")
    architecture = read_architecture(source, wanted.family)
    joined = runtime.start(
        rank=rank, world_size=world_size, master_addr="127.0.0.1", master_port=port, parallel=parallel,
        device="gpu" if gpu_present() else "cpu", threads=1, seed=0,
    )  # fmt: skip
    chunks = build_model(
        architecture, model=wanted, parallel=parallel, precision=precision,
        seq_length=1, axes=joined.axes,
    )  # fmt: skip
    load_weights(chunks, architecture, source, joined.axes)
    save_hf(chunks, architecture, joined.axes, source, Path(target))
    joined.stop()


def compare_folders(left: Path, right: Path, tied: Collection[str]) -> tuple[list[str], int]:
    """Return the tensors of `left` that `right` lacks or holds with other values, and how many there are.

    A tensor may come back in a wider dtype: it is compared by value then, which is exact. A `tied` output layer that
    `left` stores twice need not come back.
    """
    import torch

    from nemo_cascade.models.hf_folder import HfTensors

    before, after = HfTensors(left), HfTensors(right)
    names = sorted((set(before.stored) - set(tied)) | set(after.stored))
    different = [
        name
        for name in names
        if name not in before.stored
        or name not in after.stored
        or not torch.equal(before.part(name)[:].to(torch.float64), after.part(name)[:].to(torch.float64))
    ]
    return different, len(names)
