"""Qwen3-MoE: Qwen3's attention, and experts in every layer, chosen by a softmax without bias."""

from collections.abc import Mapping
from typing import Any

from nemo_cascade.models.architecture import Architecture, Experts, Mlp, Router
from nemo_cascade.models.families.dense import SwitchedWindow
from nemo_cascade.models.families.family import Limit
from nemo_cascade.models.families.fields import DENSE, Fields


class Qwen3Moe(SwitchedWindow):
    """Qwen3 30B-A3B and 235B-A22B."""

    model_type = "qwen3_moe"
    class_name = "Qwen3MoeForCausalLM"
    qk_norm = True
    head_dim_required = True
    fields = DENSE | Fields(
        required=("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        sizes=("decoder_sparse_step",),
        flags=("norm_topk_prob",),
        texts=("mlp_only_layers",),
        # How the loss of pre-training was put together.
        inert=("router_aux_loss_coef", "output_router_logits"),
    )

    def read(self, config: Mapping[str, Any]) -> Architecture:
        """See `DenseFamily`; transformers 5 writes `num_local_experts` where the released configs say `num_experts`."""
        number = config.get("num_local_experts")
        if number is not None and config.get("num_experts", number) == number:
            config = {**{k: v for k, v in config.items() if k != "num_local_experts"}, "num_experts": number}
        return super().read(config)

    def own_limits(self) -> list[Limit]:
        """See `DenseFamily`; transformers' default of norm_topk_prob is false."""
        return [
            ("norm_topk_prob", lambda v: v is True, "only true"),
            ("decoder_sparse_step", lambda v: v in (None, 1), "only 1"),
            ("mlp_only_layers", lambda v: not v, "only []"),
            ("num_experts_per_tok", lambda v: v is None or v > 1, "at least 2: a single one always weighs 1"),
        ]

    def read_mlp(self, config: Mapping[str, Any]) -> Mlp:
        """See `DenseFamily`; `intermediate_size` is of dense layers, of which there are none."""
        return Experts(
            count=config["num_experts"],
            chosen=config["num_experts_per_tok"],
            width=config["moe_intermediate_size"],
            router=Router("softmax"),
        )

    def write_mlp(self, mlp: Mlp) -> dict[str, Any]:
        """See `DenseFamily`."""
        assert isinstance(mlp, Experts), "of a layer that this family read"
        return {
            "intermediate_size": mlp.width,
            "moe_intermediate_size": mlp.width,
            "num_experts": mlp.count,
            "num_experts_per_tok": mlp.chosen,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
