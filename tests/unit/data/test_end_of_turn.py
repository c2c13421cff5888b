"""What ends a reply, and what may fill up a batch, are the template's and the tokenizer's, whatever they are."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.chat.end_of_turn import eos_token_id, padding_id, stop_token_ids, writes_chats
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.errors import RolloutError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer

ENDS = {name: template.turn_end for name, template in NAMED.items()}
CALLS_END_OTHERWISE = """{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}{{
'<extra_id_1>' if m.tool_calls else '<|im_end|>' }}
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A tokenizer folder that has the control tokens of all families, and names ChatML's end as its EOS."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_nano_tokenizer((), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    control = sorted({token for template in NAMED.values() for token in template.control})
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": tokenizer.token_to_id("<|im_end|>")}))
    return folder


def number(folder, token):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token)


@pytest.mark.parametrize("form", NAMED)
def test_replies_end_with_the_templates_token_of_every_family(bare, tmp_path, form):
    folder = install(bare, form, tmp_path)
    assert writes_chats(folder)
    assert stop_token_ids(folder) == [eos_token_id(folder)] == [number(bare, ENDS[form])]


def test_where_a_call_ends_otherwise_that_ends_a_reply_too(bare, tmp_path):
    (tmp_path / "own.jinja").write_text(CALLS_END_OTHERWISE)
    folder = install(bare, str(tmp_path / "own.jinja"), tmp_path)
    ends = [number(bare, token) for token in ("<|im_end|>", "<extra_id_1>")]
    assert stop_token_ids(folder) == eos_token_id(folder) == ends
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, ends[0]]}))
    assert stop_token_ids(folder) == [3, *ends]


@pytest.mark.parametrize("form", NAMED)
def test_padding_is_never_what_ends_a_turn(bare, tmp_path, form):
    end, other = ENDS[form], number(bare, "<|endoftext|>")
    for named, expected in (("<|endoftext|>", other), (end, other), ("none of it", other), ("<|im_start|>", None)):
        changed = tmp_path / f"named {named.strip('<|>')}"
        changed.mkdir()
        (changed / "tokenizer.json").symlink_to(bare / "tokenizer.json")
        for pad in (named, {"content": named}):
            settings = read_json_object(bare / "tokenizer_config.json") | {"pad_token": pad}
            (changed / "tokenizer_config.json").write_text(json.dumps(settings))
            found = padding_id(install(changed, form, tmp_path))
            assert found == (number(bare, named) if expected is None else expected)


def test_a_folder_without_a_tokenizer_ends_responses_by_its_eos_ids(tmp_path):
    with pytest.raises(RolloutError, match="end-of-turn"):
        stop_token_ids(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 2}))
    assert stop_token_ids(tmp_path) == [2]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert stop_token_ids(tmp_path) == [7, 8]
    for wrong in ("7", [True], [-1], {"a": 1}):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(RolloutError, match="eos_token_id is no token id"):
            stop_token_ids(tmp_path)
