"""What the operating system refuses, said as this program says it: what, where, and what to do."""

import errno
from collections.abc import Mapping

from nemo_cascade.errors import CascadeError

_MENDS: Mapping[int, str] = {
    errno.ENOSPC: "make room there, then give the same command again: a run goes on from its last checkpoint",
    errno.EDQUOT: "your quota is used up: make room, then give the same command again",
    errno.EACCES: "choose a place that you may write to (runs_dir=, data_dir=), or have its rights changed",
    errno.EPERM: "choose a place that you may write to (runs_dir=, data_dir=), or have its rights changed",
    errno.EROFS: "the file system is read-only: choose another place (runs_dir=, data_dir=)",
    errno.ENOTDIR: "a part of the path is a file: choose another place (runs_dir=, data_dir=)",
    errno.EISDIR: "a folder stands where a file is to be: remove it or choose another place",
    errno.ENOENT: "look whether the path, and the folder that you are in, still exist",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "the machine's table of open files is full: end other processes",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ESTALE: "the network file system lost the file: mount it again, then give the same command again",
    errno.EIO: "the device failed: look at the system's log",
    errno.ENOMEM: "the machine is out of memory: end other processes, or take smaller sizes",
    errno.ELOOP: "the path is a link to itself",
}


def refusal(error: OSError) -> CascadeError:
    """Return a user's error for one of the operating system's."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    return CascadeError(
        f"the system says: {error.strerror or error}".removesuffix(": "),
        value=" -> ".join(paths) or None,
        mend=_MENDS.get(error.errno or 0, "--debug shows where it happened"),
    )
