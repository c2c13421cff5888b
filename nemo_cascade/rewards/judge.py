"""Ask a judge model behind an OpenAI-compatible server."""

import http.client
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from nemo_cascade.errors import RewardError
from nemo_cascade.rewards.verifier import VerifierError

Messages = Sequence[Mapping[str, str]]


class JudgeClient:
    """Talks to `<url>/chat/completions`. Holds no connection between calls, so it may be made before a fork.

    Args:
        url: base URL of the API, such as http://judge:8000/v1.
        model: the model's name on that server.
        timeout_s: of one request.
        attempts: tries when the server is unreachable, overloaded (429) or broken (5xx).
        api_key_variable: environment variable whose value is sent as a bearer token; empty: none is sent.

    Raises:
        RewardError: the URL is none, or the key's variable isn't set.
    """

    def __init__(
        self, url: str, model: str, timeout_s: float = 60.0, attempts: int = 3, api_key_variable: str = ""
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RewardError(
                "a judge's URL is no http URL", value=url, limit="http://host:port/v1", mend="http://host:port/v1"
            )
        self._url, self._model, self._attempts, self._timeout_s = parts, model, attempts, timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key_variable:
            if not (key := os.environ.get(api_key_variable, "")):
                raise RewardError(
                    "the judge's key isn't set",
                    value=f"environment variable {api_key_variable}",
                    mend=f"export {api_key_variable}=KEY",
                )
            self._headers["Authorization"] = f"Bearer {key}"

    def chat(self, messages: Messages, **sampling: Any) -> dict[str, Any]:
        """Return the first choice of a completion.

        Args:
            messages: the conversation.
            sampling: further fields of the request (temperature, max_tokens, ...).

        Raises:
            VerifierError: no usable answer after all attempts (kind `infrastructure`).
        """
        body = json.dumps({"model": self._model, "messages": list(messages), **sampling}).encode()
        problem = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(0.2 * 2**attempt)
            try:
                status, text = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
                continue
            if status == 200:
                return _first_choice(text)
            problem = f"status {status}: {text[:200]!r}"
            if status != 429 and status < 500:
                break
        raise VerifierError("infrastructure", f"the judge at {self._url.netloc} gave no answer: {problem}")

    def yes_probability(self, messages: Messages) -> float:
        """Return P("YES") / (P("YES") + P("NO")) of the judge's first token.

        Raises:
            VerifierError: no answer, or neither word among the likeliest tokens (kind `infrastructure`).
        """
        choice = self.chat(messages, temperature=0.0, max_tokens=1, logprobs=True, top_logprobs=20)
        try:
            candidates = choice["logprobs"]["content"][0]["top_logprobs"]
            shares = {"YES": 0.0, "NO": 0.0}
            for candidate in candidates:
                word = str(candidate["token"]).strip().upper()
                if word in shares:
                    shares[word] += math.exp(float(candidate["logprob"]))
        except (KeyError, IndexError, TypeError) as error:
            raise VerifierError("infrastructure", f"the judge sends no log-probs: {error!r}") from error
        if shares["YES"] + shares["NO"] <= 0:
            raise VerifierError("infrastructure", "the judge's first token is neither YES nor NO")
        return shares["YES"] / (shares["YES"] + shares["NO"])

    def _post(self, body: bytes) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout_s)
        try:
            connection.request("POST", f"{self._url.path.rstrip('/')}/chat/completions", body, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _first_choice(text: bytes) -> dict[str, Any]:
    try:
        choice = json.loads(text)["choices"][0]
        if not isinstance(choice, dict):
            raise TypeError("a choice is no dictionary")
        return choice
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise VerifierError("infrastructure", f"the judge's answer can't be read: {error!r}") from error
