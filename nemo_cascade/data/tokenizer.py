"""The tokenizer of a model folder, reduced to what the chat format needs: exact text in, exact text out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from blake3 import blake3
from tokenizers import Tokenizer

from nemo_cascade.data.pieces import PieceEncoder, piece_encoder
from nemo_cascade.data.templates import NAMED, JinjaTemplate, Template, Tokens
from nemo_cascade.data.templates.chatml import TURN_END, TURN_START
from nemo_cascade.data.templates.install import chat_template_of, is_text_of, pinned_date, tokenizer_settings
from nemo_cascade.errors import DataError, TemplateError
from nemo_cascade.types import Int32

__all__ = ["TURN_END", "TURN_START", "ChatTokenizer", "load_tokenizer"]

# Tokenizers that add a space or drop one at the start of a text can't be fed segment by segment.
_ROUND_TRIPS = ("x", " x", "\nx\n", "<think>\nx\n</think>\nx", "user\nx /no_think", "12 + 3 = 15.")
_PROOFS = 64


class ChatTokenizer:
    """Encode and decode with a fast tokenizer; nothing is added to the text and nothing is cleaned up.

    Attributes:
        folder: where it was loaded from.
        template: the chat format that its folder names.
        end_id: id of the token that ends a turn.
        end_ids: of all tokens that end a reply; some templates end a call with another than an answer.
        vocab_size: one more than the largest id.
        fingerprint: hash of tokenizer.json.
    """

    def __init__(self, backend: Tokenizer, folder: str, fingerprint: str, template: Template) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend, self.folder, self.fingerprint, self.template = backend, folder, fingerprint, template
        end_id = backend.token_to_id(template.turn_end)
        self._proven = False
        assert end_id is not None, "load_tokenizer checks the control tokens"
        self.end_id = int(end_id)
        self.end_ids = frozenset(backend.token_to_id(token) for token in template.ends)
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
    """Load the fast tokenizer of an HF folder and prove that it can carry the chat format that the folder names.

    Raises:
        DataError: no tokenizer.json; a text that doesn't survive encoding and decoding.
        TemplateError: no chat template, one that can't be masked, or control tokens of it missing (all listed).
    """
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        raise DataError("no tokenizer.json", value=str(file), mend="give the folder of an HF fast tokenizer")
    raw = file.read_bytes()
    try:
        backend = Tokenizer.from_buffer(raw)
    except ValueError as error:
        raise DataError(f"not a fast tokenizer: {error}", value=str(file)) from error
    tokenizer = ChatTokenizer(backend, str(path), blake3(raw).hexdigest(), _template(backend, Path(path)))
    changed = [t for t in _ROUND_TRIPS if tokenizer.decode(tokenizer.encode(t)) != t]
    if changed:
        raise DataError(
            "the tokenizer doesn't give back the text that it encodes",
            value=[f"{t!r} -> {tokenizer.decode(tokenizer.encode(t))!r}" for t in changed],
            limit="decode(encode(text)) == text, with no space added or dropped at the start",
            mend="use a byte-level BPE tokenizer without add_prefix_space",
        )
    return tokenizer


def _template(backend: Tokenizer, folder: Path) -> Template:
    text = chat_template_of(folder)
    if text is None:
        raise TemplateError(
            "the tokenizer has no chat template",
            value=str(folder),
            mend=f"model.chat_template={' | '.join(NAMED)} puts one beside it",
        )
    for template in NAMED.values():
        if is_text_of(template, text):
            missing = [t for t in template.control if not _is_single(backend, t)]
            if missing:
                raise TemplateError(
                    f"the tokenizer has no single token for {', '.join(missing)}",
                    value=str(folder),
                    limit=f"{' and '.join(template.control)} as added special tokens (ChatML)",
                    mend="add them to the tokenizer and resize the model's embedding",
                )
            return template
    special = frozenset(t.content for t in backend.get_added_tokens_decoder().values() if t.special)
    settings = tokenizer_settings(folder)
    named = {k: v["content"] if isinstance(v, dict) else v for k, v in settings.items() if k.endswith("_token") and v}
    texts = {k: v for k, v in named.items() if isinstance(v, str)}

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return JinjaTemplate(text, Tokens(special, encode, texts, pinned_date(settings)))


def _is_single(backend: Tokenizer, token: str) -> bool:
    number = backend.token_to_id(token)
    return number is not None and backend.encode(token, add_special_tokens=False).ids == [number]
