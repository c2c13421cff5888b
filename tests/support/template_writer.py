"""What an HF template makes of a conversation, reply by reply, by a writer that shares no code with the program.

It has a Jinja environment of its own and knows nothing of habits, cuts or samples: for each reply it renders what was
said before it with `add_generation_prompt`, and the conversation that ends with it; the difference, up to the token
that ends the reply, is what a model has to write there.
"""

import itertools
import json
import re
from datetime import date

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

DAY = "2026-11-29"


class Unmarked(jinja2.ext.Extension):
    """Leaves out `{% generation %}`."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def refuse(message):
    raise jinja2.TemplateError(message)


class PrefixWriter:
    """Writes conversations with one template.

    Args:
        text: the template.
        special: the tokenizer's special tokens.
        named: bos_token, eos_token and so on.
    """

    def __init__(self, text, special, named):
        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Unmarked, jinja2.ext.loopcontrols]
        )
        env.filters["tojson"] = lambda x, ensure_ascii=False, **kw: json.dumps(x, ensure_ascii=ensure_ascii, **kw)
        self.template = env.from_string(text)
        self.named = {
            **named,
            "raise_exception": refuse,
            "strftime_now": lambda form: date.fromisoformat(DAY).strftime(form),
        }
        self.closings = {}
        self.ends = "|".join(sorted(map(re.escape, special), key=len, reverse=True))

    def render(self, messages, tools, thinks, *, prompt=False):
        return self.template.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=prompt,
            enable_thinking=thinks,
            thinking=thinks,
            **self.named,
        )

    def replies(self, row):
        """Return {number of an assistant's message: [(its prompt, it), ...]}, one by form that the template takes."""
        found, tools = {}, row.get("tools")
        messages = [m for m in row["messages"] if m != {"role": "system", "content": ""}]
        shift = len(row["messages"]) - len(messages)
        fields = ("reasoning_content", "reasoning", "thinking", "thought", None)
        for form in itertools.product(fields, (False, True), (False, True), (False, True)):
            for i, message in enumerate(messages):
                pair = self.reply(messages[: i + 1], tools, form) if message["role"] == "assistant" else None
                if pair is not None and pair not in found.setdefault(i + shift, []):
                    found[i + shift].append(pair)
        return found

    def reply(self, messages, tools, form):
        """Return the last reply's prompt and it; None where the template doesn't write it so."""
        message, said = messages[-1], [shaped(m, *form) for m in messages]
        thinks = "reasoning_content" in message
        try:
            whole = self.render(said, tools, thinks)
            prompt = self.render(said[:-1], tools, thinks, prompt=True)
        except Exception:  # a template's own code
            return None
        written = whole[len(prompt) :]
        texts = [message["content"].strip(), message.get("reasoning_content", "").strip()]
        texts += [call["function"]["name"] for call in message.get("tool_calls", ())]
        if not whole.startswith(prompt) or not all(text in written for text in texts):
            return None
        closing = self.closing(form, thinks, tools)
        if "tool_calls" in message:
            token = re.findall(self.ends, closing)[-1] if closing != "?" else closing
            head, closed, rest = written.rpartition(token)
            if closed and not re.sub(self.ends, "", rest).strip():
                return prompt, head + closed
            found = list(re.finditer(self.ends, written))
            return (prompt, written[: found[-1].end()]) if found else None
        begin = written.rindex(texts[0]) + len(texts[0])
        found = re.compile(rf"\s*({re.escape(closing)})").match(written, begin)
        return (prompt, written[: found.end()]) if found else None

    def closing(self, form, thinks, tools):
        """Return the tokens that end an answer."""
        key = form, thinks, bool(tools)
        if key not in self.closings:
            self.closings[key] = self.look_for_closing(form, thinks, tools)
        return self.closings[key]

    def look_for_closing(self, form, thinks, tools):
        thought = {"reasoning_content": "Hm."} if thinks else {}
        talk = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "Ay.", **thought}]
        talk = [shaped(m, *form) for m in (*talk, talk[0])]
        run = re.compile(rf"\s*((?:{self.ends})+)")
        try:
            short = self.render(talk[:2], tools, thinks).rpartition("Ay.")[2]
        except Exception:
            return "?"
        found = run.match(short)
        if found is None:
            return "?"
        tokens = re.findall(self.ends, found[1])
        eos = self.named.get("eos_token")
        if eos in tokens:
            return "".join(itertools.takewhile(lambda t: t != eos, tokens)) + eos
        try:
            other = re.findall(self.ends, run.match(self.render(talk, tools, thinks).partition("Ay.")[2])[1])
        except Exception:  # it takes no second question, or ends the answer in another way then
            return tokens[0]
        same = sum(itertools.takewhile(bool, (a == b for a, b in zip(tokens, other, strict=False))))
        # A header that is always written begins with the token that begins the user's.
        headed = 1 < same < min(len(tokens), len(other))
        return "".join(tokens[: max(1, same - headed)])


def shaped(message, thought, parts, text_arguments, null_content):
    """Give a message as one of the forms that templates read."""
    made = {k: v for k, v in message.items() if k not in ("reasoning_content", "trained")}
    reasoning = message.get("reasoning_content")
    if reasoning is not None:
        if thought is None:
            made["content"] = f"<think>\n{reasoning}\n</think>\n{made['content']}"
        else:
            made[thought] = reasoning
    if parts:
        made["content"] = [{"type": "text", "text": made["content"]}]
    if "tool_calls" in made and null_content and not message["content"] and thought is not None:
        made["content"] = None
    if "tool_calls" in made and text_arguments:
        made["tool_calls"] = [
            {
                **c,
                "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False)},
            }
            for c in made["tool_calls"]
        ]
    return made
