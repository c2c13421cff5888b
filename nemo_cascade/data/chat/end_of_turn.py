"""Which tokens of a model folder end a reply, and which one may fill up a batch: the template and the tokenizer say it.

Whoever needs them asks here: the engine that stops at them, the exported folder that names them, the public tools.
"""

from pathlib import Path

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.chat.templates.install import chat_template_of, tokenizer_settings
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import RolloutError


def stop_token_ids(folder: Path) -> list[int]:
    """Return the ids that end a response.

    The tokens with which the chat template ends a reply do: they are what the model is trained to end with. Where the
    folder's EOS ids (of generation_config.json, else config.json) name the one that ends a turn among others, those do,
    too; where they don't name it, they are about another way of writing, as those of a base model. A folder without a
    tokenizer has nothing but its EOS ids.

    Args:
        folder: HF model folder.

    Raises:
        RolloutError: the folder names no such token, or something else as one.
        DataError: the tokenizer or its template can't be used.
    """
    own = _eos_ids(folder)
    if (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(folder)
        ends = [tokenizer.end_id, *sorted(tokenizer.end_ids - {tokenizer.end_id})]
        return [*own, *(i for i in ends if i not in own)] if tokenizer.end_id in own else ends
    if not own:
        raise RolloutError(
            "the model has no end-of-turn token",
            value=folder,
            limit="tokenizer.json with a chat template, or eos_token_id in generation_config.json or config.json",
            mend="add eos_token_id to generation_config.json",
        )
    return own


def writes_chats(folder: Path) -> bool:
    """Return whether a model folder says how a conversation is written: it has a fast tokenizer and a chat template."""
    return (folder / "tokenizer.json").is_file() and chat_template_of(folder) is not None


def eos_token_id(folder: Path) -> int | list[int]:
    """Return what `eos_token_id` has to say beside a model that is trained by the folder's chat template.

    Programs of others (transformers' generate, vLLM's server) stop at it alone.

    Args:
        folder: HF model folder that `writes_chats`.

    Raises:
        RolloutError, DataError: as `stop_token_ids`.
    """
    ids = stop_token_ids(folder)
    return ids[0] if len(ids) == 1 else ids


def padding_id(folder: Path) -> int | None:
    """Return an id that a padded batch may be filled with, the tokenizer's `pad_token` if it can be.

    Classifiers read the score at the last token that isn't padding (transformers), so nothing that ends a reply is
    usable, although some tokenizers name it so.

    Args:
        folder: HF model folder that `writes_chats`.

    Returns:
        The id; None if every special token of the tokenizer ends replies.
    """
    tokenizer = load_tokenizer(folder)
    usable = {token: i for token, i in tokenizer.special_ids.items() if i not in tokenizer.end_ids}
    named = tokenizer_settings(folder).get("pad_token")
    named = named.get("content") if isinstance(named, dict) else named
    return usable[named] if named in usable else min(usable.values(), default=None)


def _eos_ids(folder: Path) -> list[int]:
    for file in (folder / "generation_config.json", folder / "config.json"):
        ids = read_json_object(file, RolloutError).get("eos_token_id") if file.is_file() else None
        if ids is not None:
            found = ids if isinstance(ids, list) else [ids]
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in found):
                raise RolloutError(
                    "eos_token_id is no token id",
                    value=f"{file}: {ids!r}",
                    limit="an id, or a list",
                    mend="write the number of the token",
                )
            return found
    return []
