"""A small byte-level BPE tokenizer for the nano models.

Every digit, every word and every fixed phrase of the tasks is one token, so that a tiny model spends its tokens on what
there is to learn: a conversation takes half as many as with merges alone.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.chatml import TURN_END, TURN_START

END_OF_TEXT = "<|endoftext|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)
THINK_TAGS = ("<think>", "</think>")
VOCAB_SIZE = 512


def train_nano_tokenizer(texts: Iterable[str], folder: Path, phrases: Sequence[str] = ()) -> None:
    """Train on texts and save as an HF fast tokenizer folder; the same texts give the same bytes.

    Args:
        texts: what merges are learned from; none: single bytes.
        folder: made.
        phrases: texts that are one token wherever they stand; of two that begin alike the longer one counts.
    """
    tags = (*THINK_TAGS, *phrases)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(tags),
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "chat_template": NAMED["cascade1"].jinja,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    special = {"eos_token": TURN_END, "pad_token": END_OF_TEXT, "additional_special_tokens": [TURN_START]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n", encoding="utf-8")
