"""The tokenizer of a model folder, reduced to what the chat format needs: exact text in, exact text out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from blake3 import blake3
from tokenizers import Tokenizer

from nemo_cascade.data.pieces import PieceEncoder, piece_encoder
from nemo_cascade.errors import DataError
from nemo_cascade.types import Int32

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# Tokenizers that add a space or drop one at the start of a text can't be fed segment by segment.
_ROUND_TRIPS = ("x", " x", "\nx\n", "<think>\nx\n</think>\nx", "user\nx /no_think", "12 + 3 = 15.")
_PROOFS = 64


class ChatTokenizer:
    """Encode and decode with a fast tokenizer; nothing is added to the text and nothing is cleaned up.

    Attributes:
        folder: where it was loaded from.
        start_id: id of `<|im_start|>`.
        end_id: id of `<|im_end|>`, the end-of-turn token.
        vocab_size: one more than the largest id.
        fingerprint: hash of tokenizer.json.
    """

    def __init__(self, backend: Tokenizer, folder: str, fingerprint: str) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend, self.folder, self.fingerprint = backend, folder, fingerprint
        self._proven = False
        start_id, end_id = backend.token_to_id(TURN_START), backend.token_to_id(TURN_END)
        assert start_id is not None, "load_tokenizer checks the control tokens"
        assert end_id is not None, "load_tokenizer checks the control tokens"
        self.start_id, self.end_id = int(start_id), int(end_id)
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> Int32:
        """Encode a text, special tokens in it included. Shape [tokens]."""
        return np.asarray(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[Int32]:
        """Encode each text on its own. Shapes [tokens].

        Raises:
            DataError: the fast way and the tokenizer's own disagree on the first texts.
        """
        if self._pieces is None:
            return self._encode_slowly(texts)
        encoded = [self._pieces.ids(text) for text in texts]
        if not self._proven:
            own = self._encode_slowly(texts[:_PROOFS])
            if different := [t for t, a, b in zip(texts, encoded, own, strict=False) if not np.array_equal(a, b)]:
                raise DataError("text encoded piece by piece isn't what the tokenizer encodes", value=different[0])
            self._proven = True
        return encoded

    def _encode_slowly(self, texts: Sequence[str]) -> list[Int32]:
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(e.ids, np.int32) for e in encoded]

    @cached_property
    def _pieces(self) -> PieceEncoder | None:
        return piece_encoder(self._backend)

    def decode(self, token_ids: Sequence[int] | Int32) -> str:
        """Decode ids, special tokens included."""
        text: str = self._backend.decode([int(i) for i in token_ids], skip_special_tokens=False)
        return text


def load_tokenizer(path: str | Path) -> ChatTokenizer:
    """Load the fast tokenizer of an HF folder and prove that it can carry the chat format.

    Raises:
        DataError: no tokenizer.json; control tokens missing (all listed); a text that doesn't survive
            encoding and decoding.
    """
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        raise DataError("no tokenizer.json", value=str(file), mend="give the folder of an HF fast tokenizer")
    raw = file.read_bytes()
    try:
        backend = Tokenizer.from_buffer(raw)
    except ValueError as error:
        raise DataError(f"not a fast tokenizer: {error}", value=str(file)) from error
    missing = [t for t in (TURN_START, TURN_END) if not _is_single(backend, t)]
    if missing:
        raise DataError(
            f"the tokenizer has no single token for {', '.join(missing)}",
            value=str(file),
            limit=f"{TURN_START} and {TURN_END} as added special tokens (ChatML)",
            mend="add them to the tokenizer and resize the model's embedding",
        )
    tokenizer = ChatTokenizer(backend, str(path), blake3(raw).hexdigest())
    changed = [t for t in _ROUND_TRIPS if tokenizer.decode(tokenizer.encode(t)) != t]
    if changed:
        raise DataError(
            "the tokenizer doesn't give back the text that it encodes",
            value=[f"{t!r} -> {tokenizer.decode(tokenizer.encode(t))!r}" for t in changed],
            limit="decode(encode(text)) == text, with no space added or dropped at the start",
            mend="use a byte-level BPE tokenizer without add_prefix_space",
        )
    return tokenizer


def _is_single(backend: Tokenizer, token: str) -> bool:
    number = backend.token_to_id(token)
    return number is not None and backend.encode(token, add_special_tokens=False).ids == [number]
