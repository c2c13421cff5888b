"""The tokenizer of a model folder, reduced to what the chat format needs: exact text in, exact text out."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from blake3 import blake3
from tokenizers import Tokenizer

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.chat.pieces import PieceEncoder, piece_encoder
from nemo_cascade.data.chat.templates import NAMED, JinjaTemplate, Template, Tokens
from nemo_cascade.data.chat.templates.chatml import TURN_END, TURN_START
from nemo_cascade.data.chat.templates.install import chat_template_of, is_text_of, pinned_date, tokenizer_settings
from nemo_cascade.data.chat.templates.turns import THINK_CLOSE, THINK_OPEN
from nemo_cascade.data.chat.token_texts import any_of
from nemo_cascade.errors import DataError, TemplateError
from nemo_cascade.types import Int32

__all__ = ["TURN_END", "TURN_START", "ChatTokenizer", "load_tokenizer"]

# Letters of both cases and of other scripts, digits, spaces and line ends: what a normalizer may change.
_ROUND_TRIPS = (
    *("x", " x", "\nx\n", "<think>\nx\n</think>\nx", "user\nx /no_think", "12 + 3 = 15."),
    *(
        "If A < B, say NO.",
        "tab\there,  two spaces",
        "x\r\ny\n\n\n",
        "caf\u00e9 na\u00efve \u00dcber",
        "e\u0301",
        "x\u00b2 \u2264 \u00bd",
    ),
    *("\u4f60\u597d\uff0c\u4e16\u754c", "\u041f\u0440\u0438\u0432\u0435\u0442", "\U0001f600 \u201cok\u201d\u2026"),
)
# A text begins with each of these where a stretch of a conversation ends: tokenised apart, they must join to the same.
_JOINS = (("user\n", "It is 4."), ("\n", "x"), ("</think>\n", "No."), ("a", "b"), ("x", " y"))
# What the fast way is compared with the tokenizer's own on: long enough to meet every kind of piece.
_PROOFS, _PROOF_CHARACTERS, _LONGEST_PROOF = 64, 1 << 18, 1 << 15


class ChatTokenizer:
    """Encode and decode with a fast tokenizer; nothing is added to the text and nothing is cleaned up.

    Attributes:
        folder: where it was loaded from.
        template: the chat format that its folder names.
        end_id: id of the token that ends a turn.
        end_ids: of all tokens that end a reply; some templates end a call with another than an answer.
        special_ids: of all special tokens, by their text.
        vocab_size: one more than the largest id.
        fingerprint: hash of tokenizer.json.
    """

    def __init__(self, backend: Tokenizer, folder: str, fingerprint: str, template: Template) -> None:
        added = backend.get_added_tokens_decoder()
        self.special_ids = {token.content: number for number, token in added.items() if token.special}
        control = {*template.control, *self.special_ids}
        # Think tags are structure where the template writes them, whether or not the tokenizer has them as tokens.
        tags = {tag for tag in (THINK_OPEN, THINK_CLOSE) if tag in template.jinja}
        self._control = any_of(control), any_of(control | tags)
        self._backend, self.folder, self.fingerprint, self.template = backend, folder, fingerprint, template
        self._proven = False
        self.end_id = _number(backend, template.turn_end)
        self.end_ids = frozenset(_number(backend, token) for token in template.ends)
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def key(self) -> str:
        """What two tokenizers have in common that make the same tokens of the same conversations."""
        return f"{self.fingerprint} {self.template.key}"

    def control_in(self, text: str, *, tags: bool = False) -> str | None:
        """Return the first control token in a text; None if there is none.

        What the template writes between turns, and every special token, would be read as structure wherever it stood.

        Args:
            text: of a message, a tool, a reply.
            tags: look for think tags, too, where the template writes them.
        """
        pattern = self._control[tags]
        found = pattern.search(text) if pattern is not None else None
        return None if found is None else found[0]

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
            self._prove(self._pieces, texts)
        return encoded

    def _prove(self, pieces: PieceEncoder, texts: Sequence[str]) -> None:
        """Compare the fast way with the tokenizer's own on the beginnings of the first texts, bounded in all."""
        some, left = [text[:_LONGEST_PROOF] for text in texts[:_PROOFS]], _PROOF_CHARACTERS
        for text in some:
            if (left := left - len(text)) < 0:
                break
            (own,) = self._encode_slowly([text])
            if not np.array_equal(pieces.ids(text), own):
                raise DataError("text encoded piece by piece isn't what the tokenizer encodes", value=text[:1000])
        self._proven = True

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
        raise DataError(
            f"not a fast tokenizer: {error}",
            value=str(file),
            mend="give the folder a tokenizer.json (save_pretrained of a fast one; `git lfs pull` for a pointer)",
        ) from error
    # What it would add or cut of its own is no part of any text.
    backend.no_padding()
    backend.no_truncation()
    tokenizer = ChatTokenizer(backend, str(path), blake3(raw).hexdigest(), _template(backend, Path(path)))
    _prove_exact(tokenizer, backend)
    return tokenizer


def _prove_exact(tokenizer: ChatTokenizer, backend: Tokenizer) -> None:
    """Refuse a tokenizer that changes texts, or that encodes a stretch otherwise than as a part of the whole."""

    def refuse(what: str, found: Sequence[str], mend: str) -> None:
        if found:
            raise DataError(what, value=list(found), limit="decode(encode(text)) == text, of any stretch", mend=mend)

    apart = [(a, b, tokenizer.decode(np.concatenate([tokenizer.encode(a), tokenizer.encode(b)]))) for a, b in _JOINS]
    refuse(
        "the tokenizer adds a space in front of every text, so what is encoded in stretches isn't the whole",
        [f"{a!r} and {b!r} -> {back!r}" for a, b, back in apart if back == f"{a} {b}"],
        "use a byte-level BPE tokenizer without add_prefix_space, or set the prefix's scheme to never",
    )
    written = tokenizer.template.control if tokenizer.template in NAMED.values() else ()
    probes = [*_ROUND_TRIPS, *(f"{token}\nx {token}" for token in written)]
    backs = {text: tokenizer.decode(tokenizer.encode(text)) for text in probes} | {a + b: back for a, b, back in apart}
    # One spelling of a character instead of another that Unicode calls the same is no change.
    changed = {t: back for t, back in backs.items() if normalize("NFC", back) != normalize("NFC", t)}
    stripping = [
        t.content
        for t in backend.get_added_tokens_decoder().values()
        if (t.lstrip or t.rstrip) and any(t.content in text for text in changed)
    ]
    refuse("added tokens swallow the spaces beside them (lstrip, rstrip)", stripping, "set both to false")
    normalizes = json.loads(backend.to_str())["normalizer"] is not None
    refuse(
        "the tokenizer doesn't give back the text that it encodes" + "; its normalizer changes it" * normalizes,
        [f"{text!r} -> {back!r}" for text, back in changed.items()],
        "use a byte-level BPE tokenizer without a lossy normalizer and without add_prefix_space",
    )


def _number(backend: Tokenizer, token: str) -> int:
    number = backend.token_to_id(token)
    assert number is not None, "load_tokenizer checks the control tokens"
    return int(number)


def _special(backend: Tokenizer) -> frozenset[str]:
    return frozenset(t.content for t in backend.get_added_tokens_decoder().values() if t.special)


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
                    limit=f"{' and '.join(template.control)} as added special tokens",
                    mend="add them to the tokenizer and resize the model's embedding",
                )
            return template
    named = {k: v for k, v in _named_tokens(folder).items() if v}

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return JinjaTemplate(text, Tokens(_special(backend), encode, named, pinned_date(tokenizer_settings(folder))))


def _named_tokens(folder: Path) -> dict[str, str]:
    """Return `bos_token`, `eos_token` and so on, from where HF's loader reads them.

    A folder whose settings don't list the added tokens is of an older form: special_tokens_map.json then overrides them
    (transformers, tokenization_utils_base.py, `_from_pretrained`).
    """
    settings: Mapping[str, Any] = tokenizer_settings(folder)
    beside = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in settings and beside.is_file():
        settings = {**settings, **read_json_object(beside, DataError)}
    named = {k: v["content"] if isinstance(v, dict) else v for k, v in settings.items() if k.endswith("_token")}
    return {k: v for k, v in named.items() if isinstance(v, str)}


def _is_single(backend: Tokenizer, token: str) -> bool:
    number = backend.token_to_id(token)
    return number is not None and backend.encode(token, add_special_tokens=False).ids == [number]
