"""Serve an HF folder with vLLM and drive a public evaluation tool against it: `nemo-cascade evaluate --with`."""

import argparse
import json
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from rich.markup import escape

from nemo_cascade.actors.openai_server import Served, serve, server_command
from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import ConfigError, DeadlineError, RunFolderError, RuntimeUnavailableError
from nemo_cascade.evaluation.external import SERVED_NAME, Settings, require_tool, results_of, tool_version
from nemo_cascade.processes.ports import free_port
from nemo_cascade.storage.atomic import write_atomically
from nemo_cascade.telemetry.console import err

# arXiv 2512.13607, appendix B.
_BUDGET, _PROMPT_TOKENS = 65536, 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of an evaluation by a public tool; defaults are the paper's (appendix B)."""
    group = parser.add_argument_group("evaluation by a public tool, against vLLM's server")
    group.add_argument("--with", dest="tool", choices=["ns", "lm-eval"], help="NeMo-Skills, or lm-eval: a quick look")
    group.add_argument("--benchmarks", nargs="+", metavar="NAME", help="ns: NAME:SAMPLES (aime24:64 gpqa:8)")
    group.add_argument("--stage", metavar="NAME", help="which stage, where the folder is a run's")
    group.add_argument("--mode", choices=["think", "no_think"], default="think", help="flag behind every user turn")
    group.add_argument("--temperature", type=float, default=0.6, help="default: 0.6")
    group.add_argument("--top-p", type=float, default=0.95, help="default: 0.95")
    group.add_argument(
        "--budget", type=int, help="tokens of prompt and response (default: 64K, or the model's positions)"
    )
    group.add_argument("--prompt-tokens", type=int, help="of which the prompt's (default: 4096, a quarter at most)")
    group.add_argument("--yarn", type=float, metavar="FACTOR", help="stretch the positions (paper: 2; SWE 3)")
    group.add_argument("--yarn-from", type=int, metavar="POSITIONS", help="of so many (default: the config's)")
    group.add_argument("--concurrency", type=int, default=64, help="requests in flight")
    group.add_argument("--limit", type=int, help="only so many prompts of each benchmark")
    group.add_argument("--task-folder", type=Path, help="lm-eval: further task definitions")
    group.add_argument("--server-args", default="", help="further arguments of vLLM's server, as one word")
    group.add_argument("--server-deadline-s", type=float, default=1800.0, help="until the server answers")
    group.add_argument("--tool-deadline-s", type=float, default=86400.0, help="until the tool is done")
    group.add_argument("--out", type=Path, metavar="FOLDER", help="default: external/TOOL-MODE beside the hf folder")
    group.add_argument("--dry", action="store_true", help="print the commands, start nothing")


def wanted(args: argparse.Namespace) -> bool:
    """Return whether the arguments ask for a public tool, if only by halves: that is refused, not overlooked."""
    return bool(args.tool or args.benchmarks or args.dry or args.stage or args.yarn or args.yarn_from)


def execute(args: argparse.Namespace) -> int:
    """Serve, run the tool, collect what it found."""
    model = hf_folder(args.folder, args.stage)
    config = read_json_object(model / "config.json")
    reach = int((args.yarn_from or config["max_position_embeddings"]) * (args.yarn or 1))
    args.budget = args.budget or min(_BUDGET, reach)
    args.prompt_tokens = args.prompt_tokens or min(_PROMPT_TOKENS, args.budget // 4)
    _check(args, config, reach)
    # NeMo-Skills asks for no stop string; a template that can't be proven is no matter then.
    ends = load_tokenizer(model).template.ends if args.tool == "lm-eval" else ()
    settings = Settings(args.tool, args.benchmarks, args.mode, args.temperature, args.top_p,
                        args.budget - args.prompt_tokens, args.concurrency, ends,
                        args.limit, args.task_folder)  # fmt: skip
    folder = (args.out or model.parent / "external" / f"{args.tool}-{args.mode}").absolute()
    port = free_port()
    # `mode` is what our own templates read, `enable_thinking` what Qwen3's and Cascade 2's do.
    template = {"mode": args.mode, "enable_thinking": args.mode == "think"}
    overrides = {} if args.yarn is None else yarn_overrides(config, args.yarn, args.yarn_from)
    more = shlex.split(args.server_args)
    command = server_command(model, SERVED_NAME, port, args.budget, template, overrides, more)
    tool = settings.command(f"http://127.0.0.1:{port}", folder / "tool")
    for line in (command, tool):
        out.print(escape(shlex.join(line)), soft_wrap=True)
    tell(server=command, command=tool)
    if args.dry:
        return 0
    require_tool(args.tool)
    if folder.exists():
        raise RunFolderError("there are results already", value=folder, mend="remove them or name another --out")
    folder.mkdir(parents=True)
    with serve(command, port, folder / "server.log", args.server_deadline_s) as served:
        _run(tool, served, folder / "tool.log", args.tool_deadline_s)
    found = results_of(args.tool, folder / "tool")
    facts = {"tool": args.tool, "version": tool_version(args.tool), "mode": args.mode, "model": str(model),
             "server": command, "command": tool, "results": found}  # fmt: skip
    write_atomically(folder / "results.json", (json.dumps(facts, indent=1) + "\n").encode())
    tell(results=found, file=str(folder / "results.json"))
    out.print(escape(str(folder / "results.json")))
    return 0


def hf_folder(folder: Path, stage: str | None) -> Path:
    """Return the HF folder that is meant: itself, a stage's, or a run's stage's.

    Raises:
        RunFolderError: there is none, or the run's stage isn't named.
    """
    if stage is None and (folder / "config.json").is_file():
        return folder.absolute()
    if stage is None and (folder / "hf" / "config.json").is_file():
        return (folder / "hf").absolute()
    from nemo_cascade.cascade.folder import RunFolder

    stages = {s.name: s.hf for s in RunFolder(folder).stages() if (s.hf / "config.json").is_file()}
    if not stages:
        mend = "name an HF folder, or a folder that `nemo-cascade run` made, with a stage that has ended"
        raise RunFolderError("no HF folder, no stage and no run with a model", value=folder, mend=mend)
    if stage not in stages:
        mend = f"--stage {list(stages)[-1]}"
        raise RunFolderError("no such stage with a model", value=f"--stage {stage}", limit=", ".join(stages), mend=mend)
    return stages[stage].absolute()


def yarn_overrides(config: dict[str, Any], factor: float, original: int | None = None) -> dict[str, Any]:
    """Return what of config.json changes for YaRN (arXiv 2309.00071) by `factor`, for inference only.

    Args:
        config: the model's config.json.
        factor: by which positions are stretched.
        original: how many positions are; None takes what the model declares.
    """
    original = original or int(config["max_position_embeddings"])
    rope = {"rope_theta": (config.get("rope_parameters") or config).get("rope_theta", 10000.0), "rope_type": "yarn"}
    rope |= {"factor": factor, "original_max_position_embeddings": original}
    return {"rope_parameters": rope, "max_position_embeddings": int(original * factor)}


def _check(args: argparse.Namespace, config: dict[str, Any], reach: int) -> None:
    wrong = []
    if args.tool is None:
        wrong.append("--benchmarks, --stage, --yarn and --dry need a tool; mend: --with ns or --with lm-eval")
    if not args.benchmarks:
        example = "aime24" if args.tool == "ns" else "gsm8k"
        wrong.append(f"--with needs --benchmarks; mend: --benchmarks {example}")
    if args.overrides or args.logs or args.save:
        wrong.append("--with takes no overrides, --logs and --save: the tool has its own prompts and results")
    if args.tool == "lm-eval" and any(":" in name for name in args.benchmarks or ()):
        wrong.append("lm-eval takes no samples per prompt (NAME:SAMPLES): set `repeats` in a task's YAML, or take ns")
    if not 0 < args.prompt_tokens < args.budget:
        wrong.append(
            f"--prompt-tokens {args.prompt_tokens} leaves no response of --budget {args.budget}; "
            f"mend: --prompt-tokens {max(1, args.budget // 4)}"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if args.yarn is not None and (args.yarn <= 1 or rope.get("rope_type", rope.get("type", "default")) != "default"):
        wrong.append(f"--yarn {args.yarn:g}: a factor over 1, for a model without rope scaling; got {rope}")
    if args.yarn_from is not None and (args.yarn is None or args.yarn_from < 1):
        wrong.append(f"--yarn-from {args.yarn_from}: the positions that --yarn FACTOR stretches, at least 1")
    if args.budget > reach:
        wrong.append(
            f"the model reaches {reach} positions, --budget {args.budget} is more; mend: "
            f"--budget {reach}, or --yarn FACTOR"
        )
    if wrong:
        raise ConfigError(wrong)


def _run(command: list[str], served: Served, log_file: Path, deadline_s: float) -> None:
    started = time.monotonic()
    with log_file.open("wb") as log:
        tool = subprocess.Popen(command, stdout=log, stderr=log, env=served.environment, start_new_session=True)
        try:
            code = tool.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise DeadlineError("the tool wasn't done", limit=f"{deadline_s:g} s", mend="--tool-deadline-s") from error
    if code != 0:
        tail = log_file.read_bytes()[-1500:].decode(errors="replace").strip()
        raise RuntimeUnavailableError("the tool failed", value=f"exit code {code}: {tail}", mend=f"read {log_file}")
    err.print(f"the tool took {time.monotonic() - started:.0f} s")
