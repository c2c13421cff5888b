"""Play an environment by hand: the policy says texts, and is given tokens."""

import json

import numpy as np

from nemo_cascade.data.chat.encode import encode_prompt
from nemo_cascade.types import FinishReason, Task, first_turn


class Player:
    """Plays a sample by hand: the policy says texts, and is given tokens."""

    def __init__(self, tokenizer, environment, record):
        self.tokenizer, self.environment = tokenizer, environment
        prompt = encode_prompt(tokenizer, record["messages"], record["mode"], record.get("tools"))
        self.task = Task("t/1", "x", "math", prompt, record)
        self.given, self.said, self.anew = environment.start(self.task), None, True

    def says(self, text, reason=FinishReason.STOP):
        ids = np.concatenate([self.tokenizer.encode(text), [self.tokenizer.end_id]]).astype(np.int32)
        answer = first_turn("t/1", 0, self.given, ids, np.zeros(ids.size, np.float32), reason, 1)
        self.said = answer if self.anew else self.said.followed_by(answer)
        step = self.environment.step(self.said)
        self.anew = step.anew
        if step.observation is not None:
            self.given = step.observation if step.anew else np.concatenate([self.said.token_ids, step.observation])
            return self.tokenizer.decode(step.observation), step
        return None, step


def call(name, xml=False, **arguments):
    if xml:
        inside = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
        return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def tool(name, *parameters, required=()):
    properties = {p: {"type": "string"} for p in parameters}
    spec = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": spec}}
