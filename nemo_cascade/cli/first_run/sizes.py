"""Numbers of a first run that fit the rows, the model and the machine: lengths, batches, steps."""

from dataclasses import dataclass

from nemo_cascade.errors import DataError

_MOST_PACKED = 8192
_ROUND = 64


@dataclass(frozen=True, slots=True)
class Lengths:
    """What rows measure, in tokens.

    Attributes:
        samples: of each training sample looked at, its tokens.
        replies: of each, those that are trained.
        prompts: of each prompt.
    """

    samples: list[int]
    replies: list[int]
    prompts: list[int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers that a first run's file holds.

    Attributes:
        seq_length: of a pack, tokens.
        batch: packs per step.
        epochs: passes over the rows.
        max_tokens: of a response.
        max_model_len: prompt and response together, tokens.
        prompts_per_step: prompts of a batch.
        num_generations: responses to each.
        rl_steps: batches.
    """

    seq_length: int
    batch: int
    epochs: int
    max_tokens: int
    max_model_len: int
    prompts_per_step: int
    num_generations: int
    rl_steps: int


def choose(lengths: Lengths, rows: int, prompts: int, positions: int, *, large: bool, slow: bool) -> Sizes:
    """Choose numbers for a first look: 30 SFT steps of a small set (12 slow ones), one epoch of a large one; short RL.

    Args:
        lengths: of the first rows.
        rows: to train on.
        prompts: to answer.
        positions: the longest sequence of the model.
        large: whether a GPU works: batches and steps are larger then.
        slow: whether a CPU works on a model that isn't tiny: a step takes seconds, one of RL most of a minute.

    Raises:
        DataError: the longest prompt leaves no room for a response.
    """
    longest = max([*lengths.samples, *lengths.prompts, 1])
    asked = max([*lengths.prompts, 1])
    if longest > positions or asked + 16 > positions:
        raise DataError(
            "the longest row doesn't fit into the model",
            value=f"{max(longest, asked + 16)} tokens, 16 of them for a response" if asked + 16 > longest else longest,
            limit=f"{positions} positions",
            mend="shorten or remove the row, or take a model with more positions",
        )
    mean = sum(lengths.samples) / max(1, len(lengths.samples))
    total = mean * rows
    # Few short rows in few long packs would be few steps: packs as short as the longest row allows.
    packed = min(_MOST_PACKED if large else 1024, positions) if total > 64 * _MOST_PACKED else 0
    seq_length = min(positions, max(_up(longest), packed))
    packs = max(1, round(total / seq_length))
    batch = min(32 if large else 4, packs)
    epochs = max(1, min(10, round((12 if slow else 30) * batch / packs)))
    reply = max([*lengths.replies, 0])
    wanted = max(32, 2 * reply) if reply else 128
    max_tokens = max(16, min(wanted, 512 if large else 128, positions - asked))
    max_model_len = min(positions, _up(asked + max_tokens))
    return Sizes(
        seq_length=seq_length,
        batch=batch,
        epochs=epochs,
        max_tokens=max_tokens,
        max_model_len=max_model_len,
        prompts_per_step=min(32 if large else 4 if slow else 8, prompts),
        num_generations=8,
        rl_steps=100 if large else 4 if slow else 8,
    )


def _up(length: int) -> int:
    return -(-length // _ROUND) * _ROUND
