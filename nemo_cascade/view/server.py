"""The server behind the page: JSON of run folders, for this machine's browser only."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nemo_cascade.cascade.folder import RunFolder, names_apart
from nemo_cascade.errors import CascadeError
from nemo_cascade.view.rollout_index import FILE, RolloutIndex, Wanted
from nemo_cascade.view.run_view import RunView, as_json

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
_FILES = {"/": ("index.html", "text/html"), "/app.css": ("app.css", "text/css")} | {
    f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("app", "charts", "rollouts")
}
_POLICY = "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_MOST_ROWS = 200

Query = Mapping[str, str]


def _whole(query: Query, name: str, otherwise: int | None = None) -> int | None:
    return int(query[name]) if query.get(name) else otherwise


def _number(query: Query, name: str) -> float | None:
    return float(query[name]) if query.get(name) else None


def _rollouts(view: RunView, query: Query) -> Any:
    wanted = Wanted(
        stage=query.get("stage", ""),
        step=_whole(query, "step"),
        domain=query.get("domain") or None,
        prompt_id=query.get("prompt") or None,
        finish_reason=query.get("finish") or None,
        error=query.get("error") or None,
        least=_number(query, "least"),
        most=_number(query, "most"),
        min_tokens=_whole(query, "min_tokens"),
        max_tokens=_whole(query, "max_tokens"),
    )
    return view.rollouts(wanted, query.get("sort", "newest"), *_page(query))


def _page(query: Query) -> tuple[int, int]:
    return max(0, _whole(query, "offset", 0) or 0), min(_MOST_ROWS, _whole(query, "limit", 50) or 50)


ANSWERS: Mapping[str, Callable[[RunView, Query], Any]] = {
    "state": lambda view, query: {"state": view.state(), "waiting": len(view.index.missing())},
    "overview": lambda view, query: view.overview(),
    "curves": lambda view, query: view.curves(query.get("stage", "")),
    "timeline": lambda view, query: view.timeline(
        query.get("stage", ""), _whole(query, "first", 1) or 1, min(_MOST_ROWS, _whole(query, "count", 40) or 40)
    ),
    "rollouts": _rollouts,
    "rollout": lambda view, query: view.rollout(
        query.get("stage", ""), _whole(query, "step", 0) or 0, _whole(query, "row", 0) or 0
    ),
    "prompts": lambda view, query: view.prompts(query.get("stage", ""), *_page(query)),
    "ledger": lambda view, query: view.ledger(),
}
"""Last part of the path -> what is told of a run."""


class _Handler(BaseHTTPRequestHandler):
    views: Sequence[RunView] = ()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer the page's own requests, and nobody else's."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost", "[::1]"):
            # Another site's name for this address (DNS rebinding) would let its pages read the runs.
            self._send(HTTPStatus.FORBIDDEN, b"this page answers 127.0.0.1 and localhost", "text/plain")
            return
        address = urlsplit(self.path)
        if address.path in _FILES:
            name, kind = _FILES[address.path]
            self._send(HTTPStatus.OK, (PAGE / name).read_bytes(), kind)
            return
        try:
            self._send(HTTPStatus.OK, as_json(self._told(address.path, address.query)), "application/json")
        except (CascadeError, ValueError, OSError) as error:
            self._send(HTTPStatus.BAD_REQUEST, as_json({"error": str(error)}), "application/json")
        except LookupError:
            self._send(HTTPStatus.NOT_FOUND, as_json({"error": "no such page"}), "application/json")

    def _told(self, path: str, query: str) -> Any:
        if path == "/api/runs":
            paths = [view.folder.path for view in self.views]
            return [{"name": n, "path": str(p.absolute())} for n, p in zip(names_apart(paths), paths, strict=True)]
        head, api, number, what = path.split("/") if path.count("/") == 3 else ("", "", "", "")
        if (head, api) != ("", "api") or not number.isdigit():
            raise LookupError(path)
        values = {key: found[-1] for key, found in parse_qs(query).items()}
        return ANSWERS[what](self.views[int(number)], values)

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the terminal."""
        log.debug(format, *args)


@contextmanager
def serving(folders: Sequence[Path], port: int) -> Iterator[ThreadingHTTPServer]:
    """Serve run folders on this machine's own address while the block runs.

    Args:
        folders: of runs.
        port: 0: a free one.

    Raises:
        RunFolderError: one is no run folder.
    """
    runs = [RunFolder.begun(folder) for folder in folders]
    with tempfile.TemporaryDirectory(prefix="nemo-cascade-view-") as scratch:
        views = []
        for number, run in enumerate(runs):
            views.append(RunView(run, RolloutIndex(run, _index_file(run.path, Path(scratch) / f"{number}.sqlite"))))
        handler = type("Handler", (_Handler,), {"views": tuple(views)})
        with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
            server.daemon_threads = True
            for view in views:
                view.index.start()
            try:
                yield server
            finally:
                for view in views:
                    view.index.stop()


def _index_file(run: Path, otherwise: Path) -> Path:
    """Return where a run's index is kept: below the run, so that it is there next time; elsewhere if that can't be."""
    place = run / "view"
    try:
        place.mkdir(exist_ok=True)
        (place / "write.test").touch()
        (place / "write.test").unlink()
    except OSError:
        return otherwise
    return place / FILE
