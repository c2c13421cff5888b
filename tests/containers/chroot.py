"""Run a Dockerfile's steps without a container builder: in a chroot of this machine's own root, under an overlay.

What a step writes goes into the overlay and not into this machine. The base image is not there: the distribution is
this machine's, and a Python 3.12 that it has stands for the base's.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# The kernel's own, and what /etc/resolv.conf may lead to.
BOUND = ("proc", "dev", "sys", "run")
# What the base's distribution would bring, and this one hasn't.
INSTALLED = re.compile(r"(?<=apt-get install)[^&]*")
NOT_HERE = re.compile(r"\bpython3\.12(-dev|-venv)?(?=\s)")


@dataclass
class Chroot:
    """A root folder in which a Dockerfile's instructions can be carried out.

    Attributes:
        folder: its root.
        context: the folder that COPY copies from.
        environment: of the commands: what ENV has set, and ARG's defaults.
        workdir: where they run.
    """

    folder: Path
    context: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"

    def carry_out(self, instruction: str) -> None:
        """Carry out an ENV, ARG, WORKDIR, COPY or RUN.

        Raises:
            AssertionError: a command failed: its last words.
        """
        word, _, rest = instruction.partition(" ")
        if word in ("ENV", "ARG"):
            for name, _, value in (pair.partition("=") for pair in shlex.split(rest)):
                # As Docker does it: the values of this one's other names are not seen yet.
                self.environment[name] = re.sub(r"\$(\w+)", lambda m: self.environment.get(m[1], ""), value)
        elif word == "WORKDIR":
            self.workdir = rest
            (self.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            self._copy(*shlex.split(rest))
        elif word == "RUN":
            self.run(INSTALLED.sub(lambda packages: NOT_HERE.sub("", packages[0]), rest))
        else:
            raise AssertionError(f"{word} is not known here: {instruction}")

    def run(self, command: str) -> str:
        """Run a shell command inside; return what it prints."""
        words = ["chroot", str(self.folder), "sh", "-ec", f"cd {shlex.quote(self.workdir)}; {command}"]
        done = subprocess.run(words, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"
        return done.stdout

    def _copy(self, *words: str) -> None:
        *sources, target = words
        into = self.folder / os.path.join(self.workdir, target).lstrip("/")
        for name in sources:
            source = self.context / name
            many = len(sources) > 1 or target.endswith(("/", "."))
            to = into / source.name if many and source.is_file() else into
            to.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, to)


@contextmanager
def chroot(scratch: Path, context: Path, python: Path) -> Iterator[Chroot]:
    """Yield a chroot over this machine's root, in which `python3.12` is `python`; nothing of it stays mounted.

    Raises:
        subprocess.CalledProcessError: only root may mount, and the kernel must have overlays.
    """
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    mounted: list[Path] = []

    def mount(target: Path, *options: str) -> None:
        subprocess.run(["mount", *options, str(target)], check=True, capture_output=True)
        mounted.insert(0, target)

    try:
        mount(root, "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}")
        for name in BOUND:
            mount(root / name, "--bind", f"/{name}")
        (root / "usr/local/bin/python3.12").symlink_to(python)
        # What leads to the package registry, and nothing else of ours.
        kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_")) or k.lower().endswith("_proxy")}
        yield Chroot(root, context, {**kept, "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"})
    finally:
        for target in mounted:
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["umount", "--lazy", str(target)], check=True, capture_output=True)


def instructions(dockerfile: str, stages: tuple[str, ...]) -> list[str]:
    """Return the instructions of a Dockerfile's named stages, in order, each on one line, FROM left out."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE))
    found: list[str] = []
    stage = ""
    for line in filter(None, map(str.strip, joined.splitlines())):
        if line.startswith("FROM "):
            stage = line.partition(" AS ")[2]
        elif stage in stages:
            found.append(line)
    return found
