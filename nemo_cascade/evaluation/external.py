"""Public evaluation tools: the exact command of each, with the paper's sampling and mode, and what it leaves behind.

NeMo-Skills (`ns eval`) is the tool for numbers, lm-eval for a quick look. Both talk to vLLM's OpenAI server, which
writes the mode flag through the model's own chat template: the tools' prompts stay as they are.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from nemo_cascade.errors import RuntimeUnavailableError

Tool = Literal["ns", "lm-eval"]
SERVED_NAME = "policy"
_INSTALL = {
    "ns": "pip install git+https://github.com/NVIDIA-NeMo/Skills.git (or run inside the nemo-skills container), "
    "then `ns prepare_data BENCHMARK`",
    "lm-eval": 'pip install "nemo-cascade[eval]" (lm-eval[api]==0.4.13)',
}
_RESULTS = {"ns": "eval-results/*/metrics.json", "lm-eval": "**/results_*.json"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an evaluation by a public tool is made with.

    Attributes:
        tool: which.
        benchmarks: the tool's names; for `ns` with samples per prompt, `aime24:64`.
        mode: the flag behind every user turn.
        temperature: of sampling.
        top_p: nucleus mass.
        max_tokens: most tokens of a response.
        concurrency: requests in flight.
        ends: what ends a reply by the model's chat template.
        limit: only so many prompts of each benchmark; None takes all.
        task_folder: lm-eval's further task definitions.
    """

    tool: Tool
    benchmarks: Sequence[str]
    mode: Literal["think", "no_think"]
    temperature: float
    top_p: float
    max_tokens: int
    concurrency: int
    ends: Sequence[str]
    limit: int | None = None
    task_folder: Path | None = None

    def command(self, url: str, folder: Path) -> list[str]:
        """Return the tool's command line, for the OpenAI server at `url` (without /v1), writing into `folder`."""
        return self._ns(url, folder) if self.tool == "ns" else self._lm_eval(url, folder)

    def _ns(self, url: str, folder: Path) -> list[str]:
        command = ["ns", "eval", "--server_type=vllm", f"--server_address={url}/v1", f"--model={SERVED_NAME}"]
        command += [f"--benchmarks={','.join(self.benchmarks)}", f"--output_dir={folder}"]
        command += ["--starting_seed=0", f"++inference.temperature={self.temperature}"]
        command += [f"++inference.top_p={self.top_p}", f"++inference.tokens_to_generate={self.max_tokens}"]
        command.append(f"++max_concurrent_requests={self.concurrency}")
        if self.limit is not None:
            command.append(f"++max_samples={self.limit}")
        # The answer is looked for behind the thoughts; without thoughts it would be taken for cut off.
        return [*command, "++parse_reasoning=True"] if self.mode == "think" else command

    def _lm_eval(self, url: str, folder: Path) -> list[str]:
        model = f"model={SERVED_NAME},base_url={url}/v1/chat/completions,num_concurrent={self.concurrency}"
        model += ",think_end_token=</think>" if self.mode == "think" else ""
        # `until`: a task's own stop strings, often an empty line, would cut thoughts off. The model ends its turns.
        drawn = [f"temperature={self.temperature}", f"top_p={self.top_p}", "do_sample=True"]
        # Its one fixed seed for every request would draw the repeats of a prompt alike and tie the luck of the prompts
        # together; without it the server draws on from its own seed.
        drawn += [f"max_gen_toks={self.max_tokens}", f"until={list(self.ends)}", "seed=None"]
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--model_args", model]
        command += ["--tasks", *self.benchmarks, "--apply_chat_template", "--gen_kwargs", *drawn]
        command += ["--log_samples", "--output_path", str(folder)]
        command += [] if self.limit is None else ["--limit", str(self.limit)]
        return command if self.task_folder is None else [*command, "--include_path", str(self.task_folder)]


def require_tool(tool: Tool) -> None:
    """Make sure that a tool is installed here.

    Raises:
        RuntimeUnavailableError: it isn't; says how to get it.
    """
    if (shutil.which("ns") if tool == "ns" else find_spec("lm_eval")) is None:
        mend = f"{_INSTALL[tool]}; --dry prints the commands without it"
        raise RuntimeUnavailableError(f"{tool} is not installed here", mend=mend)


def tool_version(tool: Tool) -> str | None:
    """Return the installed package's version; None where it has no metadata."""
    try:
        return version("nemo_skills" if tool == "ns" else "lm_eval")
    except PackageNotFoundError:
        return None


def results_of(tool: Tool, folder: Path) -> dict[str, Any]:
    """Read what a tool left in its folder, by path.

    Raises:
        RuntimeUnavailableError: the tool ended well and left no result.
    """
    found = sorted(folder.glob(_RESULTS[tool]))
    if not found:
        mend = "read tool.log beside it"
        raise RuntimeUnavailableError(f"{tool} left no result", value=folder / _RESULTS[tool], mend=mend)
    return {str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8")) for path in found}
