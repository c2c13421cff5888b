"""Conversations of every kind that templates treat in their own way, and what an independent writer says of samples."""

from pathlib import Path

from tokenizers import Tokenizer

from nemo_cascade.data.chat import encode

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Say what the weather is.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "the city"}},
                "required": ["city"],
            },
        },
    }
]


def user(text):
    return {"role": "user", "content": text}


def reply(text, thought=None, **more):
    return {"role": "assistant", "content": text, **({"reasoning_content": thought} if thought else {}), **more}


def call(number, city, text="", thought=None):
    made = {"id": number, "type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
    return reply(text, thought, tool_calls=[made])


def result(number, text):
    return {"role": "tool", "content": text, "tool_call_id": number, "name": "get_weather"}


SYSTEM = {"role": "system", "content": "Be brief."}
_MANY = [user("One?"), reply("First."), user("Two?"), reply("Second."), user("Three?"), reply("Third.")]
_EPISODE = [user("Rome?"), call("call00001", "Rome"), result("call00001", "sunny"), reply("It is sunny.")]
_THOUGHTFUL = [
    user("Rome and Oslo?"),
    call("call00001", "Rome", thought="first Rome"),
    result("call00001", "sunny"),
    call("call00002", "Oslo", thought="then Oslo"),
    result("call00002", "snow"),
    reply("Sun and snow.", "both are known"),
]
CONVERSATIONS = {
    name: {"messages": messages}
    for name, messages in {
        "one": _MANY[:2],
        "three": _MANY,
        "system": [SYSTEM, *_MANY[:2]],
        "system three": [SYSTEM, *_MANY],
        "empty system": [{"role": "system", "content": ""}, *_MANY[:4]],
        "unicode": [user("naïve \U0001f600 漢字"), reply("e\u0301té — مرحبا"), user("und?"), reply("Größe")],
        "layout": [user("  code?\n"), reply("```\nx = {'a': 1}\n\n\ny\n```\n"), user("a\n\nb"), reply("- one\n- two")],
        "untrained": [*_MANY[:1], reply("bad", trained=False), *_MANY[2:4]],
        "thought": [user("One?"), reply("First.", "hm\n\nso")],
        "thoughts": [user("One?"), reply("First.", "alpha"), user("Two?"), reply("Second.", "beta")],
        "mixed": [*_MANY[:2], user("Two?"), reply("Second.", "beta"), *_MANY[4:]],
        "system thought": [SYSTEM, user("One?"), reply("First.", "alpha")],
    }.items()
}
CONVERSATIONS |= {
    name: {"messages": messages, "tools": TOOLS}
    for name, messages in {
        "tools unused": _MANY[:2],
        "tools": _EPISODE,
        "tools system": [SYSTEM, *_EPISODE],
        "tools thoughts": _THOUGHTFUL,
        "tools go on": [
            *_EPISODE,
            user("And Oslo?"),
            call("call00002", "Oslo"),
            result("call00002", '{"sky": 1}'),
            reply("Snow."),
        ],
        "tools thoughts go on": [*_THOUGHTFUL, user("Thanks."), reply("Bye.", "polite")],
    }.items()
}


def prompt_of(tokenizer, row, i):
    """Return the text that a reply is sampled from; None where the template can't ask for it."""
    mode = "think" if "reasoning_content" in row["messages"][i] else "no_think"
    segments, problems = tokenizer.template.prompt({**row, "messages": row["messages"][:i]}, mode)
    return None if problems else "".join(s.text for s in segments)


def differences(tokenizer, writer, row, samples):
    """Compare samples with an independent writer's replies, in text and in tokens. Returns what differs."""
    written = writer.replies(row)
    before = {i: prompt_of(tokenizer, row, i) for i in written}
    slow = Tokenizer.from_file(str(Path(tokenizer.folder) / "tokenizer.json"))
    due = {i for i, m in enumerate(row["messages"]) if m["role"] == "assistant" and m.get("trained", True)}
    problems, learned = [], []
    for sample, (ids, mask) in zip(samples, encode.encode_segments(tokenizer, samples), strict=True):
        text, spans, at = "".join(s.text for s in sample), [], 0
        for segment in sample:
            if segment.trained:
                spans.append((at, at + len(segment.text)))
                pair = text[:at], segment.text
                number = [i for i in due if pair in written.get(i, ())]
                learned += number
                if not number:
                    problems.append(f"nobody else writes {segment.text!r} behind {text[:at][-40:]!r}")
                problems += [f"prompt of {i} is {before[i]!r}" for i in number if before[i] not in (None, text[:at])]
            at += len(segment.text)
        whole = slow.encode(text, add_special_tokens=False)
        expected = [
            (i, int(any(b <= begin < e for b, e in spans)))
            for i, (begin, _) in zip(whole.ids, whole.offsets, strict=True)
        ]
        found = list(zip(ids.tolist(), mask.tolist(), strict=True))
        if expected != found:
            at = next(n for n, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b)
            problems.append(f"tokens differ at {tokenizer.decode(ids[at - 3 : at + 3])!r}")
    if sorted(learned) != sorted(due):
        problems.append(f"replies {sorted(due)} are due, {sorted(learned)} are learned")
    return problems
