"""An inference engine: what it holds, and nominal seconds of a decode step and of prefill.

A step reads the weights that its batch touches and every sequence's keys and values, launches each block's kernels,
sums over tensor-parallel ranks, and computes. Terms are nominal; `decode` and `rollouts` hold the factors.
"""

from dataclasses import dataclass

from nemo_cascade.config.hardware import HardwareConfig
from nemo_cascade.planner.shape import AttentionBlock, ExpertsBlock, LatentAttentionBlock, MambaBlock, Shape


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    Attributes:
        shape: the model.
        hardware: the machine.
        tp: ranks that matrices and heads are cut over.
        ep: ranks that experts are cut over.
        weight_bytes: of a parameter; embedding and output stay in bf16.
        kv_bytes: of an element of the cache.
    """

    shape: Shape
    hardware: HardwareConfig
    tp: int
    ep: int
    weight_bytes: float = 2.0
    kv_bytes: float = 2.0

    @property
    def stored(self) -> float:
        """Bytes of weights on a rank."""
        dense, expert, tables = self.shape.parameters
        table_bytes = max(2.0, self.weight_bytes)
        return (self.weight_bytes * dense + table_bytes * tables) / self.tp + self.weight_bytes * expert / self.ep

    def cache_bytes(self, tokens: float) -> float:
        """Return bytes that a sequence of so many tokens takes on a rank."""
        total = 0.0
        for block in self.shape.blocks:
            if isinstance(block, AttentionBlock):
                held = min(tokens, block.window) if block.window else tokens
                total += block.kv * held * self.kv_bytes / min(self.tp, block.shared_by)
            elif isinstance(block, LatentAttentionBlock):
                total += block.kv * tokens * self.kv_bytes
            elif isinstance(block, MambaBlock):
                total += 4.0 * block.inner * block.state / self.tp
        return total

    @property
    def missed(self) -> float:
        """Share of a rank's experts that one more token of its batch leaves untouched."""
        blocks = [block for block in self.shape.blocks if isinstance(block, ExpertsBlock)]
        return (1 - blocks[0].topk / blocks[0].count) ** (self.ep / self.tp) if blocks else 1.0

    @property
    def read_bytes(self) -> tuple[float, float]:
        """Bytes of weights that a rank reads in a decode step: (always, of the experts if all are visited)."""
        dense, expert, _ = self.shape.parameters
        head = 2.0 * self.shape.vocabulary * self.shape.hidden
        return (self.weight_bytes * dense + head) / self.tp, self.weight_bytes * expert / self.ep

    @property
    def step_flops(self) -> float:
        """FLOPs of a token on a rank, without attention."""
        total = 2.0 * self.shape.vocabulary * self.shape.hidden
        for block in self.shape.blocks:
            forward = block.forward(0.0)
            total += forward.matrices + forward.experts
        return total / self.tp

    def attention_flops(self, tokens: float) -> float:
        """Return FLOPs a token of attention on a rank, while a prompt of so many tokens is read."""
        return sum(block.forward(tokens).mixing for block in self.shape.blocks) / self.tp

    @property
    def peak(self) -> float:
        """FLOP/s of the data sheet at the weights' precision."""
        hardware = self.hardware
        low = hardware.fp8_tflops if self.weight_bytes <= 1 else hardware.bf16_tflops
        if self.weight_bytes < 0.9 and hardware.generation == "blackwell":
            low = hardware.fp4_tflops
        return low * 1e12

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks (without experts, with)."""
        experts = sum(block.kind == "experts" for block in self.shape.blocks)
        return len(self.shape.blocks) - experts, experts
