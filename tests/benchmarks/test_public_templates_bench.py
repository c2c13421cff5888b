"""Public chat templates, all that a folder holds: accepted with the masks of an independent writer, or refused and why.

    NEMO_CASCADE_TEMPLATES=FOLDER pytest tests/benchmarks/test_public_templates_bench.py -m bench -s

Every *.jinja below the folder is one template; NAME.json beside NAME.jinja may name its `bos_token` and so on. Equal
texts count once. No template's text is kept here.

Last measured on 270 different ones: the .jinja files of TRL (trl/chat_templates), axolotl, ik_llama.cpp
(models/templates), mistral.rs, unsloth, minja, open-instruct; chujiezheng/chat_templates, without line ends and
indentation as its README says; and the texts in huggingface.js (packages/jinja/test/e2e.test.js,
packages/ollama-utils/src/chat-template-automap.ts). 217 accepted, and in all 2,858 conversations that they write the
masks are the independent writer's. 53 refused:

    24  the prompt isn't a prefix of the text with the answer: it opens a think block, a channel or a header that the
        template leaves out again, or the model judges others (guards)
    19  no special token ends an answer: none at all, or, as GLM's, the one that opens the next turn
     5  it fails on a question and an answer: it wants other inputs, or its code is none that Jinja runs
     3  it leaves the answer out
     2  its own marks of what is generated are wider than what follows the prompt
"""

import collections
import json
import os
import re
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from nemo_cascade.data.chat import encode
from nemo_cascade.errors import TemplateError
from tests.support.template_conversations import CONVERSATIONS, differences
from tests.support.template_writer import DAY, PrefixWriter

FOLDER = os.environ.get("NEMO_CASCADE_TEMPLATES")
pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
MOST_REFUSED_SHARE = 0.23
# What looks like a control token in a template's text; tags of thoughts and tools are words.
_CONTROL = re.compile(
    r"<\|[^<>|\s'\"]{1,40}\|>|<｜[^<>\s'\"]{1,40}｜>|</?s>|\[/?[A-Z][A-Z_]{1,24}\]|<\w+_of_\w+>|<(?:extra_id|unused)_?\d+>"
    r"|<\[[^<>\s]{1,30}\]>|<\|[\w]+>|<\w+\|>|<eos>|<bos>|<sep>|\[\|/?\w+\|\]|<\w+:\w+>|\[e~\[|\]~b\]|\]~!b\["
)
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# How most vocabularies of the last years cut text into words; line ends stay together.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def specials_of(text, named):
    composed = (
        {f"<|{role}|>" for role in ("system", "user", "assistant", "tool")} if re.search(r"'<\|' ?[+~]", text) else ()
    )
    return {*_CONTROL.findall(text), *composed, *named.values()}


def build(text, named, folder):
    """Write a tokenizer folder whose special tokens are the template's, and the template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = ["It is four.\n\nassistant\n<think>\nadding </think>\n\nuser: Assistant: system: \n\n\n"] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    special = specials_of(text, named)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in sorted(special)])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in _TAGS if t not in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template_date": DAY}))
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    return special


def templates():
    found = {}
    for file in sorted(Path(FOLDER).rglob("*.jinja")):
        text = file.read_text(encoding="utf-8")
        beside = file.with_suffix(".json")
        named = json.loads(beside.read_text()) if beside.is_file() else {}
        named = {k: v["content"] if isinstance(v, dict) else v for k, v in named.items() if v}
        found.setdefault(text.strip(), (file, text, {"bos_token": "<s>", "eos_token": "</s>", **named}))
    return list(found.values())


@pytest.mark.skipif(not FOLDER, reason="NEMO_CASCADE_TEMPLATES names no folder of templates")
def test_public_templates_have_the_masks_of_an_independent_writer_or_a_reason(tmp_path):
    accepted, refused, wrong, taken = [], {}, {}, collections.Counter()
    for number, (file, text, named) in enumerate(templates()):
        name, folder = str(file.relative_to(FOLDER)), tmp_path / str(number)
        folder.mkdir()
        special = build(text, named, folder)
        try:
            tokenizer = encode.load_tokenizer(folder)
        except TemplateError as error:
            refused[name] = error.what.partition(": ")[2] or error.what
            continue
        writer, kinds = PrefixWriter(text, special, named), []
        for kind, row in CONVERSATIONS.items():
            samples, problems = tokenizer.template.samples(row)
            if problems:
                print(f"    {name}  {kind}: {problems[0][:150]}")
                continue
            kinds.append(kind)
            if found := differences(tokenizer, writer, row, samples):
                wrong[name, kind] = found
        taken.update(kinds)
        accepted.append(name)
        print(f"accepted  {name}  ends by {tokenizer.template.ends}: {len(kinds)} of {len(CONVERSATIONS)} kinds")
    for name, why in refused.items():
        print(f"refused   {name}: {why}")
    for at, found in wrong.items():
        print(f"WRONG     {at}: {found}")
    count = len(accepted) + len(refused)
    print(f"{len(accepted)} accepted, {len(refused)} refused of {count}; rows by kind: {dict(taken)}")
    assert not wrong
    assert len(refused) <= MOST_REFUSED_SHARE * count
