"""Random conversations, and by a slow writer that shares no code with the program what each format makes of them.

The writer follows the formats' descriptions word for word: it goes through a conversation once, from left to right, and
emits stretches of text with a mark. It returns a sample as a list of [text, trained].
"""

import json
from random import Random

TEXTS = (
    "4",
    "What is 2+2?",
    "a\n\nb ",
    "naïve \U0001f600 漢字 e\u0301",
    "<think> is a tag, and </think> too",
    "\ttab",
    "/think about it",
    "  two before, two behind  ",
    "def f(x):\n    return x\n",
    "שלום — مرحبا",
)
ANSWERS = (
    "",
    "4",
    "It is four.",
    "a\n\nb ",
    "naïve \U0001f600 漢字 e\u0301",
    "- one\n- two\n",
    "```\nx = 1\n```",
    "7/think",
)
THOUGHTS = ("so\n\n12", "hm \U0001f914", "first: a\nthen: b", "  indented")
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": " Adds two numbers. ",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "the first", "minimum": 1},
                    "b": {"enum": [1, "zwölf"], "default": True},
                },
                "required": ["a", "b"],
            },
        },
    },
    {"name": "now", "parameters": {"type": "object", "properties": {}}, "strict": False},
)
ARGUMENTS = ({}, {"a": 1, "b": "zwölf"}, {"text": "two\nlines", "list": [1, {"k": None}], "flag": True})


def random_row(seed, *, explicit=False):
    """Draw a conversation. explicit: every user's turn says its mode, and thoughts are fields."""
    rng = Random(seed)
    row = {"messages": []}
    if rng.random() < 0.3:
        row["tools"] = list(TOOLS[: rng.randint(1, 2)])
    if rng.random() < 0.5:
        row["messages"].append({"role": "system", "content": rng.choice(("", *TEXTS))})
    for _ in range(rng.randint(1, 4)):
        thinks = rng.random() < 0.5
        user = {"role": "user", "content": rng.choice((*[""] * (rng.random() < 0.5), *TEXTS))}
        if explicit or rng.random() < 0.3:
            user["mode"] = "think" if thinks else "no_think"
        row["messages"].append(user)
        for _ in range(rng.randint(0, 2) if "tools" in row else 0):
            calls = [
                {"name": rng.choice(("add", "now")), "arguments": rng.choice(ARGUMENTS)}
                for _ in range(rng.randint(1, 2))
            ]
            shaped = [{"type": "function", "function": c} if rng.random() < 0.5 else c for c in calls]
            row["messages"].append({**reply(rng, thinks, explicit), "tool_calls": shaped})
            row["messages"] += [{"role": "tool", "content": rng.choice(TEXTS)} for _ in calls]
        row["messages"].append(reply(rng, thinks, explicit))
        if rng.random() < 0.1:
            row["messages"][-1]["trained"] = False
    return row


def reply(rng, thinks, explicit):
    answer = rng.choice(ANSWERS[rng.random() < 0.7 :])
    message = {"role": "assistant", "content": answer}
    if thinks:
        thought = rng.choice(THOUGHTS)
        if explicit or rng.random() < 0.5:
            message["reasoning_content"] = thought
        else:
            message["content"] = f"<think>\n{thought}\n</think>\n{answer}"
    return message


def adapted(row, form):
    """A row that a format takes: Nano 2 reads flags wherever they stand, Nemotron-4 has no tools."""
    messages = row["messages"]
    if form == "nano_v2":
        plain = [{**m, "content": m["content"].replace("/think", "/thin k")} for m in messages]
        messages = [p if m["role"] in ("system", "user") else m for m, p in zip(messages, plain, strict=True)]
    if form == "nemotron_4":
        messages = [m for m in messages if m["role"] != "tool" and "tool_calls" not in m]
        row = {key: value for key, value in row.items() if key != "tools"}
    return {**row, "messages": messages}


def written(row, form):
    """Write a row in a format: a list of samples."""
    if form == "nano_v2":
        replies = [i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"]
        samples = [written_nano_v2(row, i + 1) for i in replies]
    elif form == "nemotron_4":
        samples = [written_nemotron_4(row)]
    else:
        samples = written_cascade2(row, form) if form in ("cascade2", "nano3") else [written_chatml(row, form)]
    return [sample for sample in samples if any(trained for _, trained in sample)]


def written_whole(row, form):
    """Write a row as one sample, whatever it hides."""
    if form in ("cascade2", "nano3"):
        return written_cascade2_sample(row, form, len(row["messages"]), -1)
    if form == "nano_v2":
        return written_nano_v2(row, len(row["messages"]))
    return written_nemotron_4(row) if form == "nemotron_4" else written_chatml(row, form)


def thought_and_answer(message):
    content = message["content"]
    if "reasoning_content" in message:
        return message["reasoning_content"], content
    if content.startswith("<think>\n"):
        thought, answer = content[len("<think>\n") :].split("\n</think>\n", 1)
        return thought, answer
    return None, content


def calls_of(message):
    return [c.get("function", c) for c in message.get("tool_calls", ())]


class Writer:
    """Collects text; a reply is a stretch of its own, whether trained or not."""

    def __init__(self):
        self.stretches, self.pending = [], ""

    def put(self, text):
        self.pending += text

    def reply(self, text, trained):
        self.stretches += [[self.pending, False], [text, trained]]
        self.pending = ""

    def done(self):
        return self.stretches  # what stands behind the last reply is never needed


def written_chatml(row, form):
    w, messages = Writer(), row["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    if system is None and form == "cascade1":
        system = "You are a helpful and harmless assistant."
    if "tools" in row:
        system = (system + "\n\n" if system else "") + (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
            "function signatures within <tools></tools> XML tags:\n<tools>\n"
            + "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in row["tools"])
            + "</tools>\n\nFor each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )
    if system is not None:
        w.put(f"<|im_start|>system\n{system}<|im_end|>\n")
    for i, m in enumerate(messages):
        if m["role"] == "user":
            flag = ""
            if form == "cascade1":
                until = next((j for j in range(i + 1, len(messages)) if messages[j]["role"] == "user"), len(messages))
                replies = [x for x in messages[i:until] if x["role"] == "assistant"]
                flag = " /think" if any(thought_and_answer(x)[0] is not None for x in replies) else " /no_think"
            w.put(f"<|im_start|>user\n{m['content']}{flag}<|im_end|>\n")
        elif m["role"] == "tool":
            if messages[i - 1]["role"] != "tool":
                w.put("<|im_start|>user")
            w.put(f"\n<tool_response>\n{m['content']}\n</tool_response>")
            if messages[i + 1]["role"] != "tool":
                w.put("<|im_end|>\n")
        elif m["role"] == "assistant":
            thought, answer = thought_and_answer(m)
            text = "" if thought is None else f"<think>\n{thought}\n</think>\n"
            text += answer
            for number, call in enumerate(calls_of(m)):
                arguments = json.dumps(call["arguments"], ensure_ascii=False)
                text += "\n" if answer or number else ""
                text += f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {arguments}}}\n</tool_call>'
            w.put("<|im_start|>assistant\n")
            w.reply(text + "<|im_end|>", m.get("trained", True))
            w.put("\n")
    return w.done()


XML_FORMAT = """If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls
</IMPORTANT>"""  # noqa: E501

XML_TOOLS = (
    "<function>\n<name>add</name>\n<description>Adds two numbers.</description>\n<parameters>\n"
    "<parameter>\n<name>a</name>\n<type>integer</type>\n<description>the first</description>\n<minimum>1</minimum>\n"
    '</parameter>\n<parameter>\n<name>b</name>\n<enum>[1, "zwölf"]</enum>\n<default>True</default>\n</parameter>\n'
    '<required>["a", "b"]</required>\n</parameters>\n</function>',
    "<function>\n<name>now</name>\n<parameters>\n</parameters>\n<strict>False</strict>\n</function>",
)


def written_cascade2(row, form):
    messages = row["messages"]
    users = [i for i, m in enumerate(messages) if m["role"] == "user"]
    if not any(m["role"] == "assistant" and thought_and_answer(m)[0] is not None for m in messages[: users[-1]]):
        samples = [(len(messages), -1)]
    else:  # one sample per user's turn; only what follows that turn is trained
        samples = list(zip([*users[1:], len(messages)], users, strict=True))
    return [written_cascade2_sample(row, form, end, first) for end, first in samples]


def written_cascade2_sample(row, form, end, first_trained):
    w, messages = Writer(), row["messages"][:end]
    given = messages[0]["content"] if messages[0]["role"] == "system" else None
    if given is None and form == "cascade2":
        given = "You are a helpful and harmless assistant."
        if "tools" not in row:
            given += "\n\nYou are not allowed to use any tools."
    w.put("<|im_start|>system\n" + (given or ""))
    if "tools" in row:
        w.put(("\n\n" if given else "") + "# Tools\n\nYou have access to the following functions:\n\n<tools>\n")
        w.put("\n".join(XML_TOOLS[: len(row["tools"])]) + "\n</tools>\n\n" + XML_FORMAT)
    w.put("<|im_end|>\n")
    last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
    for i, m in enumerate(messages):
        if m["role"] == "user":
            w.put(f"<|im_start|>user\n{m['content']}<|im_end|>\n")
        elif m["role"] == "tool":
            if messages[i - 1]["role"] != "tool":
                w.put("<|im_start|>user\n")
            w.put(f"<tool_response>\n{m['content']}\n</tool_response>\n")
            if messages[i + 1]["role"] != "tool":
                w.put("<|im_end|>\n")
        elif m["role"] == "assistant":
            thought, answer = thought_and_answer(m)
            if thought is not None and i > last_user:
                opened, text = "<think>\n", (thought + "\n</think>\n" + answer).rstrip()
            elif thought is not None:  # the thought is forgotten once the user speaks again
                opened, text = "<think></think>", answer.strip() if calls_of(m) else ("\n" + answer).rstrip()
            else:
                opened, text = "<think></think>", answer.rstrip()
            if calls_of(m):
                text += "\n"
            for call in calls_of(m):
                text += f"<tool_call>\n<function={call['name']}>\n"
                for name, value in call["arguments"].items():
                    plain = value if isinstance(value, str) else str(value)
                    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else plain
                    text += f"<parameter={name}>\n{shown}\n</parameter>\n"
                text += "</function>\n</tool_call>\n"
            w.put("<|im_start|>assistant\n" + opened)
            own_words = thought is None or i > last_user
            w.reply(text + "<|im_end|>", own_words and m.get("trained", True) and i > first_trained)
            w.put("\n")
    return w.done()


LIST_FORMAT = """If you decide to call any tool(s), use the following format:
<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}, {{"name": "tool_name2", "arguments": "tool_args2"}}]</TOOLCALL>

The user will execute tool-calls and return responses from tool(s) in this format:
<TOOL_RESPONSE>[{{"tool_response1"}}, {{"tool_response2"}}]</TOOL_RESPONSE>

Based on the tool responses, you can call additional tools if needed, correct tool calls if any errors are found, or just respond to the user."""  # noqa: E501


def written_nano_v2(row, end):
    """The first `end` messages; only a reply that ends them is as the model writes it."""
    w, messages = Writer(), row["messages"][:end]
    given = messages[0]["content"].strip() if messages[0]["role"] == "system" else ""
    w.put("<SPECIAL_10>System\n" + given)
    if "tools" in row:
        w.put("\n\n" if given else "")
        w.put("You can use the following tools to assist the user if required:\n<AVAILABLE_TOOLS>[")
        w.put(", ".join(json.dumps(t.get("function", t), ensure_ascii=False) for t in row["tools"]))
        w.put("]</AVAILABLE_TOOLS>\n\n" + LIST_FORMAT)
    w.put("\n")
    for i, m in enumerate(messages):
        if m["role"] == "user":
            w.put(f"<SPECIAL_11>User\n{m['content'].strip()}\n")
        elif m["role"] == "tool":
            w.put("<SPECIAL_11>User\n<TOOL_RESPONSE>[" if messages[i - 1]["role"] != "tool" else ", ")
            w.put(m["content"] + ("]</TOOL_RESPONSE>\n" if messages[i + 1]["role"] != "tool" else ""))
        elif m["role"] == "assistant":
            thought, answer = thought_and_answer(m)
            w.put("<SPECIAL_11>Assistant\n")
            text = answer.strip()
            if i + 1 == end and thought is None:
                w.put("<think></think>")
            elif i + 1 == end:
                w.put("<think>\n")
                text = (thought + "\n</think>\n\n" + answer).strip()
            calls = [
                f'{{"name": "{c["name"]}", "arguments": {json.dumps(c["arguments"], ensure_ascii=False)}}}'
                for c in calls_of(m)
            ]
            if calls:
                text += ("\n\n" if text else "") + f"<TOOLCALL>[{', '.join(calls)}]</TOOLCALL>"
            w.reply(text + "\n<SPECIAL_12>", m.get("trained", True) and i + 1 == end)
            w.put("\n")
    return w.done()


def written_nemotron_4(row):
    w, messages, opened = Writer(), row["messages"], False
    w.put("<extra_id_0>System\n" + (messages[0]["content"] if messages[0]["role"] == "system" else "") + "\n")
    for m in messages:
        if m["role"] == "user":
            w.put(("" if opened else "<extra_id_1>") + f"User\n{m['content']}\n")
        elif m["role"] == "assistant":
            thought, answer = thought_and_answer(m)
            w.put("<extra_id_1>Assistant\n")
            w.reply(
                ("" if thought is None else f"<think>\n{thought}\n</think>\n") + answer + "\n<extra_id_1>",
                m.get("trained", True),
            )
            opened = True
    return w.done()
