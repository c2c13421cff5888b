"""Look at runs in a browser, live or afterwards: scores, curves, time, rollouts, prompts, ledger; several side by side.

nemo-cascade view runs/nano
nemo-cascade view runs/nano runs/hot --port 8000
"""

import argparse
import threading
from pathlib import Path

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out

TELLS_FACTS = False
TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="made by `nemo-cascade run`")
    parser.add_argument("--port", type=int, default=0, help="of this machine's own address (default: a free one)")


def execute(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; reads the run folders and writes nothing into them but an index of their rollouts."""
    from nemo_cascade.view.server import serving

    with serving(args.folders, args.port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.server_port
        try:
            out.print(f"http://127.0.0.1:{port}/  (Ctrl-C ends it)", soft_wrap=True)
            out.print(escape(f"from another machine: ssh -L {port}:127.0.0.1:{port} HOST"))
            thread.join()
        except KeyboardInterrupt:
            server.shutdown()
    return 0
