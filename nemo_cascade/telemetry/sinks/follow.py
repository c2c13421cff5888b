"""A sink's process: reads what the run writes, and hands it on until the run says that it has ended.

The files are the truth: the run writes metrics.jsonl and scores.json and knows nothing of sinks; this process follows
them, at its own pace. `python -m nemo_cascade.telemetry.sinks.follow FOLDER NUMBER`, standard input open while the run
lives.
"""

import json
import os
import re
import selectors
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_cascade.config.logging import SINKS, SinkConfig
from nemo_cascade.config.plugins import load_plugin
from nemo_cascade.config.reading import libyaml
from nemo_cascade.telemetry.sinks.sink import Sink, SinkRun, flat

EVERY_S = 1.0
_STAGE = re.compile(r"\d{2,}-(.+)")


@dataclass
class _File:
    """How far a growing file has been read; `number` tells it from one that took its place."""

    offset: int = 0
    number: int = 0


@dataclass
class Follower:
    """Yield what is new in a run folder, each time that it is asked."""

    folder: Path
    files: dict[Path, _File] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    last_step: dict[str, int] = field(default_factory=dict)

    def news(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """Yield (stage, step, values) of every complete line that wasn't there before, and of new scores."""
        for path in sorted(self.folder.glob("stages/*/metrics.jsonl")):
            if match := _STAGE.fullmatch(path.parent.name):
                for line in self._lines(path):
                    self.last_step[match[1]] = int(line["step"])
                    yield match[1], int(line["step"]), flat(line)
        yield from self._new_scores()

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        state = path.stat()
        place = self.files.setdefault(path, _File(number=state.st_ino))
        if state.st_ino != place.number or state.st_size < place.offset:
            # A resume put a shorter file in its place: its steps come again.
            place.offset, place.number = 0, state.st_ino
        with path.open("rb") as file:
            file.seek(place.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                place.offset += len(line)
                yield json.loads(line)

    def _new_scores(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        try:
            found = json.loads((self.folder / "scores.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for stage, domains in found.items():
            if self.scores.get(stage) != domains:
                self.scores[stage] = domains
                told = {f"score/{domain}": row.get("score") for domain, row in domains.items()}
                yield stage, self.last_step.get(stage, 0), flat(told)


def follow(sink: Sink, follower: Follower) -> None:
    """Hand on what is new, every second, until standard input ends; then what is left."""
    lives = selectors.DefaultSelector()
    lives.register(sys.stdin.fileno(), selectors.EVENT_READ)
    ended = False
    while not ended:
        ended = bool(lives.select(timeout=EVERY_S)) and not os.read(sys.stdin.fileno(), 1)
        for stage, step, values in follower.news():
            sink.log(stage, step, values)
    sink.close()


def main(folder: Path, number: int) -> None:
    """Open the run's sink of that number, and follow the run."""
    config = libyaml.parsed((folder / "config.yaml").read_text(encoding="utf-8"))
    wanted = SinkConfig(**config["logging"]["sinks"][number])
    make = load_plugin(SINKS.get(wanted.kind, wanted.kind))
    sink = make(SinkRun(folder.name, folder, config), **wanted.settings)
    follow(sink, Follower(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
