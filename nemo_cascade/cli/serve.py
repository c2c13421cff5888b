"""Serve a part of the system to other machines; so far the sandbox that runs model-written programs.

nemo-cascade serve sandbox --port 8010 --token-file ~/.sandbox-token
nemo-cascade serve sandbox --token-file token --workers 8 --isolation bubblewrap
"""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

from pydantic import ValidationError
from rich.markup import escape

from nemo_cascade.cli.screen.terminal import err
from nemo_cascade.config.sandbox import Limits, SandboxConfig
from nemo_cascade.errors import ConfigError, SandboxError

TAKES_OVERRIDES = False
_SHORTEST_TOKEN = 16
_MIB = 1 << 20
_LAST_REQUESTS_S = 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("what", choices=["sandbox"], help="what to serve")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8010, help="port to listen on")
    parser.add_argument("--token-file", type=Path, required=True, help="file with the token that clients must send")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="programs that run side by side")
    parser.add_argument("--queue", type=int, default=1024, help="requests that may wait; more get 429")
    parser.add_argument("--wall-s", type=float, default=Limits.wall_s, help="default limit of wall and CPU seconds")
    parser.add_argument("--memory-mib", type=int, default=Limits.memory_mib, help="default limit of memory")
    parser.add_argument("--body-mib", type=int, default=16, help="largest request")
    parser.add_argument(
        "--isolation",
        choices=["bubblewrap", "rlimits"],
        default="bubblewrap",
        help="rlimits: no namespaces; programs can read what this user can read",
    )


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        SandboxError: if there is none, it is too short, or others may read the file.
    """
    if not path.is_file():
        raise SandboxError(
            "no token file", value=path, mend=f"python3 -c 'import secrets; print(secrets.token_hex(32))' > {path}"
        )
    if path.stat().st_mode & 0o077:
        raise SandboxError("others may read the token file", value=path, mend=f"chmod 600 {path}")
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < _SHORTEST_TOKEN:
        raise SandboxError("the token is too short", value=len(token), limit=f"at least {_SHORTEST_TOKEN} characters")
    return token


def configuration(args: argparse.Namespace) -> SandboxConfig:
    """Return the sandbox's configuration.

    Raises:
        ConfigError: naming every option that is out of range.
    """
    try:
        return SandboxConfig(
            isolation=args.isolation,
            workers=args.workers,
            queue=args.queue,
            limits=Limits(cpu_s=args.wall_s, wall_s=args.wall_s, memory_mib=args.memory_mib),
        )
    except ValidationError as error:
        raise ConfigError(
            [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']}" for e in error.errors()]
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one.

    Raises:
        SandboxError: if the address can't be had.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise SandboxError("can't listen there", value=f"{host}:{port}: {error.strerror}", mend="--port") from error


def execute(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    import uvicorn

    from nemo_cascade.sandbox.sandbox import Sandbox
    from nemo_cascade.sandbox.service import create_app

    token, config = read_token(args.token_file), configuration(args)
    with listen(args.host, args.port) as listener, Sandbox(config) as sandbox:
        where = f"http://{args.host}:{listener.getsockname()[1]}"
        err.print(escape(f"sandbox at {where}, API at {where}/docs; {config.workers} workers, {config.isolation}"))
        app = create_app(sandbox, token, args.body_mib * _MIB)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_LAST_REQUESTS_S)
        uvicorn.Server(settings).run(sockets=[listener])
    return 0
