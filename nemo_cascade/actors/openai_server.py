"""vLLM's OpenAI server over an HF folder on loopback, for programs of others; nothing of it is left behind.

The janitor ends the server and whatever else was started with the session's environment, also when this process was
killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from nemo_cascade.errors import DeadlineError, RuntimeUnavailableError
from nemo_cascade.processes import janitor
from nemo_cascade.processes.supervise import Watch

LOOPBACK = "127.0.0.1"
_POLL_S = 0.5
_TAIL_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers.

    Attributes:
        url: its address, without /v1.
        environment: for programs that shall end with it.
    """

    url: str
    environment: dict[str, str]


def server_command(
    folder: Path, name: str, port: int, max_model_len: int, template: dict[str, Any], overrides: dict[str, Any],
    more: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Return the server's command line.

    Args:
        folder: HF model folder.
        name: what requests call the model.
        port: of loopback.
        max_model_len: most tokens of prompt and response together.
        template: variables of the chat template in every request, such as the mode.
        overrides: of the folder's config.json, such as YaRN's.
        more: further arguments, as they are.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--host", LOOPBACK, "--port", str(port)]
    command += ["--max-model-len", str(max_model_len), "--default-chat-template-kwargs", json.dumps(template)]
    # A generation_config.json of the base model must not change the sampling that was asked for.
    command += ["--generation-config", "vllm", "--disable-log-stats"]
    return [*command, *(["--hf-overrides", json.dumps(overrides)] if overrides else []), *more]


@contextmanager
def serve(command: Sequence[str], port: int, log_file: Path, deadline_s: float) -> Iterator[Served]:
    """Run a server until the block is left; SIGTERM becomes SystemExit meanwhile.

    Raises:
        RuntimeUnavailableError: the server ended before it answered.
        DeadlineError: it didn't answer within `deadline_s`.
    """
    session = Path(tempfile.mkdtemp(prefix="nemo-cascade-serve-"))
    environment = {**os.environ, janitor.MARKER: str(session), "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"VLLM_HOST_IP": LOOPBACK, "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}
    before = signal.signal(signal.SIGTERM, _leave)
    watch = Watch(os.getpid(), janitor.start_ticks(os.getpid()), session)
    try:
        # The log lies in the session's folder, so that the janitor knows processes that rename themselves.
        with (session / "server.log").open("wb") as out:
            server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        _wait(server, f"http://{LOOPBACK}:{port}", session / "server.log", deadline_s)
        yield Served(f"http://{LOOPBACK}:{port}", environment)
    finally:
        _end(watch, session, log_file)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _wait(server: subprocess.Popen[bytes], url: str, log_file: Path, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeUnavailableError("vLLM's server ended before it answered", value=_tail(log_file))
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    mend = "--server-deadline-s"
    raise DeadlineError(f"vLLM's server didn't answer: {_tail(log_file)}", limit=f"{deadline_s:g} s", mend=mend)


def _tail(log_file: Path) -> str:
    return log_file.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()


def _end(watch: Watch, session: Path, log_file: Path) -> None:
    """Keep the log, then have everything of the session ended."""
    if (session / "server.log").is_file():
        shutil.copyfile(session / "server.log", log_file)
    for pid in janitor.session_processes(str(session)):
        if pid != watch.pid:
            os.kill(pid, signal.SIGTERM)
    watch.end()
