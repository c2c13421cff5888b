"""How much a model's layers and channels matter, measured on conversations.

    layer     mean over tokens and vocabulary of (logit - logit without the layer)^2; the least important one is left
              out, the others are measured again without it, and so on                       arXiv 2508.14444
    channel   mean |activation| over tokens; of the hidden state behind its norms, averaged over them; of an MLP at
              what goes into its last matrix                                                 arXiv 2407.14679, section 2

transformers computes the model, whole, on one device. Shapes: T tokens of a row, H hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_cascade.config.stages.sft_data import ThoughtsConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.rows.columns import OWN_ROWS
from nemo_cascade.data.rows.sources import read_raw
from nemo_cascade.data.sft.tokenise import tokenised
from nemo_cascade.errors import DataError
from nemo_cascade.models.architecture import Architecture
from nemo_cascade.models.families import family_named
from nemo_cascade.models.pruning import Wanted, followed_sizes, may_go
from nemo_cascade.models.sources import without_progress_bars

_LOGITS_AT_ONCE = 2**24


def calibration_rows(path: Path, model: Path, count: int, most_tokens: int) -> list[Tensor]:
    """Return the first conversations of a file, [tokens] int64 each, of which longer ones are cut.

    Args:
        path: rows as SFT has them.
        model: HF folder with the tokenizer.
        count: how many; all where there are fewer.
        most_tokens: of one.

    Raises:
        DataError: a row is no conversation, or there is none.
    """
    rows: list[Tensor] = []
    for sample in tokenised(read_raw(path, count), load_tokenizer(model), OWN_ROWS, ThoughtsConfig()):
        if not sample.fit or sample.token_ids is None:
            value, mend = f"{path}:{sample.line}: {sample.broken or 'it has no reply'}", "give rows as SFT reads them"
            raise DataError("a row can't be measured on", value=value, mend=mend)
        rows.append(torch.from_numpy(sample.token_ids[:most_tokens]).long())
    if not rows:
        raise DataError("no rows to measure on", value=str(path), mend="give conversations")
    return rows[:count]


@dataclass(frozen=True, slots=True)
class Removal:
    """One layer that was left out.

    Attributes:
        layer: its number.
        logit_mse: of each layer that was still there -> the logits' mean squared error without it.
    """

    layer: int
    logit_mse: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class ChannelScores:
    """Mean |activation| of channels.

    Attributes:
        hidden: [H] float64.
        ffn: layer -> [width] float64.
    """

    hidden: Tensor
    ffn: Mapping[int, Tensor]


class Measuring:
    """A model and what it is measured on.

    Args:
        folder: HF folder.
        arch: its architecture.
        rows: [tokens] each.
        device: torch's name of it.
    """

    def __init__(self, folder: Path, arch: Architecture, rows: Sequence[Tensor], device: str) -> None:
        from transformers import AutoModelForCausalLM

        wide = torch.float32 if device == "cpu" else "auto"
        self._arch, self._rows = arch, [row[None].to(device) for row in rows]
        with without_progress_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=wide)
        self._model = model.to(device).eval().requires_grad_(False)
        self._layers: Any = self._model.base_model.layers

    def removals(self, wanted: Wanted, told: Callable[[Removal], None]) -> list[Removal]:
        """Leave layers out until `wanted.layers` are left, the least important one first.

        Args:
            wanted: how many stay.
            told: is given each.
        """
        # In main memory: a thousand rows of 4K tokens are 40 GiB of a 12B model's states.
        states, left = [state.cpu() for state in self._states()], list(range(len(self._arch.layers)))
        made: list[Removal] = []
        while wanted.layers is not None and len(left) > wanted.layers:
            gone = [one.layer for one in made]
            scores = {number: self._logit_mse(states, [*gone, number]) for number in left}
            free = [number for number in left if may_go(self._arch, left, number, wanted.attention_layers)]
            made.append(Removal(min(free, key=lambda number: scores[number]), scores))
            left.remove(made[-1].layer)
            told(made[-1])
        return made

    def channels(self, gone: Sequence[int]) -> ChannelScores:
        """Return the channels' scores in the model without some layers."""
        norms, lasts = self._places(gone)
        hidden = torch.zeros(self._arch.hidden_size, dtype=torch.float64)
        sums: dict[int, Tensor] = {}

        def behind_norm(module: Any, args: Any, output: Tensor) -> None:
            hidden.add_(output.abs().double().sum(tuple(range(output.dim() - 1))).cpu())

        def before_last(number: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
            def hook(module: Any, args: tuple[Tensor, ...]) -> None:
                total = args[0].abs().double().sum(tuple(range(args[0].dim() - 1))).cpu()
                sums[number] = sums[number] + total if number in sums else total

            return hook

        with ExitStack() as hooks:
            for norm in norms:
                hooks.callback(norm.register_forward_hook(behind_norm).remove)
            for number, last in lasts.items():
                hooks.callback(last.register_forward_pre_hook(before_last(number)).remove)
            with self._without(gone):
                for _ in self._states():
                    pass
        tokens = sum(row.numel() for row in self._rows)
        return ChannelScores(hidden / (tokens * len(norms)), {number: total / tokens for number, total in sums.items()})

    def _states(self) -> Iterator[Tensor]:
        """Yield the last hidden states of each row, [T, H]."""
        with torch.no_grad():
            for row in self._rows:
                yield self._model.base_model(input_ids=row, use_cache=False).last_hidden_state[0]

    def _logit_mse(self, states: Sequence[Tensor], gone: Sequence[int]) -> float:
        # The output layer is linear: logits differ by what it makes of the states' difference.
        words_VH = self._model.get_output_embeddings().weight
        step, total, tokens = max(1, _LOGITS_AT_ONCE // len(words_VH)), 0.0, 0
        with self._without(gone):
            for whole_TH, without_TH in zip(states, self._states(), strict=True):
                for part in (whole_TH.to(without_TH.device) - without_TH).split(step):
                    total += float((part @ words_VH.t()).float().square().sum(dtype=torch.float64))
                tokens += len(whole_TH)
        return total / (tokens * len(words_VH))

    @contextmanager
    def _without(self, gone: Sequence[int]) -> Iterator[None]:
        """Within, have layers hand on what they are given."""
        try:
            for number in gone:
                self._layers[number].forward = _hand_on
            yield
        finally:
            for number in gone:
                del self._layers[number].forward

    def _places(self, gone: Sequence[int]) -> tuple[list[Any], dict[int, Any]]:
        """Return the norms of the hidden state, and by layer the last matrix of its MLP."""
        family, follows = family_named(self._arch.family), followed_sizes(self._arch)
        norms = [self._model.base_model.get_submodule(family.final_norm.split(".")[-2])]
        lasts: dict[int, Any] = {}
        for number in (number for number in range(len(self._arch.layers)) if number not in gone):
            for name in (name for rule in family.layer_rules(self._arch, number) for name in rule.hf):
                path, _, kind = name.partition(f"layers.{number}.")[2].rpartition(".")
                if kind == "weight" and follows[name] == ("hidden",):
                    norms.append(self._layers[number].get_submodule(path))
                if kind == "weight" and follows[name] == ("hidden", "ffn"):
                    lasts[number] = self._layers[number].get_submodule(path)
        return norms, lasts


def _hand_on(hidden_states: Tensor, *args: Any, **named: Any) -> Tensor:
    return hidden_states
