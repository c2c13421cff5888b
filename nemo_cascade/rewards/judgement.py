"""Ask a judge a question whose answer is one of two labels, and read which it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.response import split_response

FALLBACK = "unreadable judgement counted as"
"""How the verdict begins to tell that a judgement couldn't be read and was counted for something all the same."""


def ask_label(
    client: JudgeClient, question: str, labels: Sequence[str], attempts: int, sampling: Mapping[str, Any]
) -> str | None:
    """Return the label that a judge's answer ends with; None where all answers have none.

    A label stands in double brackets, `[[YES]]`; of several the last counts, behind the judge's own thought. A server
    that sends thoughts apart sends an answer without them.

    Raises:
        VerifierError: the server gives no answer (kind `infrastructure`).
    """
    for _ in range(attempts):
        choice = client.chat([{"role": "user", "content": question}], **sampling)
        said = split_response(str((choice.get("message") or {}).get("content") or "")).answer or ""
        found = {said.rfind(f"[[{label}]]"): label for label in labels}
        if (last := max(found)) >= 0:
            return found[last]
    return None


def harmless(text: str, labels: Sequence[str]) -> str:
    """Return a response's text in which no label stands: a judge that quotes it must not be read by what it says."""
    for label in labels:
        text = text.replace(f"[[{label}]]", f"[{label}]")
    return text
