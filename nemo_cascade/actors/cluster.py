"""One Ray per run: started on loopback (or joined), and ended with everything in it on every exit path.

Who ends what: `stop()` ends the actors and Ray; the janitor ends what is left of them, also when the driver was
killed and could not say goodbye; and each actor watches the driver by itself (lifeline).
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from nemo_cascade.actors.joining import wait_for_nodes
from nemo_cascade.actors.placement import GpuSlot, reserve_gpus
from nemo_cascade.config.checks.host import resolved_device
from nemo_cascade.config.checks.repeatable import repeatable_environment
from nemo_cascade.config.schema import ClusterConfig
from nemo_cascade.errors import RuntimeUnavailableError
from nemo_cascade.processes import janitor
from nemo_cascade.processes.supervise import Driver, Watch

log = logging.getLogger(__name__)

MIB = 1 << 20
_RAY_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the answers that a failed call leaves behind
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Every actor has an environment of its own, so workers started in advance would only take memory.
    "RAY_enable_worker_prestart": "0",
}
_TOKEN_PATH, _TOKEN_MODE = "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"  # Ray sets the mode where it finds a token
LOOPBACK = "127.0.0.1"


class Cluster:
    """Ray for one run.

    Use as a context manager, or call `stop()` yourself; an interpreter that exits without it stops too, and SIGTERM
    becomes SystemExit so that the way out is the usual one.

    Args:
        config: device, threads, object store, address to join.
        log_folder: where the actors' logs are kept when the cluster stops; None drops them.

    Attributes:
        driver: this process.
        device: what actors compute on.
        session: folder of Ray's files and of the actors' stack dumps.
        slots: the run's GPUs, node by node; empty on CPU.
    """

    def __init__(self, config: ClusterConfig, log_folder: Path | None = None) -> None:
        self.config, self.log_folder = config, log_folder
        self.driver = Driver.here()
        self.device = resolved_device(config)
        self.session = Path()
        self.slots: list[GpuSlot] = []
        self._watch: Watch | None = None
        self._handler_at_start: Any = None
        self._before_sigterm: Any = None
        self._environment_before: dict[str, str | None] = {}
        self._running = False

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def joined(self) -> bool:
        """Whether Ray belongs to somebody else."""
        return self.config.ray_address is not None

    def start(self) -> None:
        """Start Ray, or join the one at `ray_address`.

        Raises:
            RuntimeUnavailableError: Ray does not come up.
        """
        assert not self._running, "the cluster runs already"
        self._make_folders()
        self._watch = Watch(self.driver.pid, self.driver.ticks, self.session)
        atexit.register(self.stop)
        self._running = True
        self._handler_at_start = signal.getsignal(signal.SIGTERM)
        started, up = time.monotonic(), False
        try:
            self._start_ray()
            up = True
        except (ConnectionError, RuntimeError, OSError, TimeoutError) as error:
            raise RuntimeUnavailableError(
                f"no Ray at {self.config.ray_address}" if self.joined else "Ray did not start",
                value=f"{type(error).__name__}: {error}",
                mend="look at the free memory and at other Ray processes of this machine",
            ) from error
        finally:
            if not up:
                self.stop()
        self._take_sigterm()
        log.debug("Ray is up in %.1f s", time.monotonic() - started)

    def stop(self) -> None:
        """End Ray and every process of the run; may be called more than once."""
        if not self._running:
            return
        self._running = False
        atexit.unregister(self.stop)
        import ray

        ray.shutdown()
        try:
            self._keep_logs()
        except OSError as error:
            # A full disk, as a rule: what ended the run says so, too, and must not be hidden by this.
            log.error("the workers' logs could not be kept in %s: %s", self.log_folder, error)
        finally:
            if self._watch is not None:
                self._watch.end()
                self._watch = None
        # Whoever starts another Ray from this process must not be told where this one's token was.
        for name, value in self._environment_before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._before_sigterm is not None:
            signal.signal(signal.SIGTERM, self._before_sigterm)
            self._before_sigterm = None

    def environment(self, threads: int, **extra: str) -> dict[str, str]:
        """Return the environment of an actor that computes with `threads` CPU threads."""
        return {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "OMP_DYNAMIC": "FALSE",
            "MKL_DYNAMIC": "FALSE",
            # Threads that spin while they wait steal the core from those they wait for, where processes share cores.
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            # fp32 is fp32, in every library: containers come with TF32 switched on.
            "NVIDIA_TF32_OVERRIDE": "0",
            **repeatable_environment(self.config),
            **extra,
        }

    def _take_sigterm(self) -> None:
        """Leave through Python on SIGTERM: Ray's own handler, set while it started, would end the process at once."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._before_sigterm = self._handler_at_start or signal.SIG_DFL
        own = self._before_sigterm if callable(self._before_sigterm) else _exit_on_signal
        signal.signal(signal.SIGTERM, own)

    def _make_folders(self) -> None:
        # Ray's sockets live below this folder, and the path of a socket has 107 bytes: TMPDIR may be too deep.
        base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 24 else "/tmp"
        self.session = Path(tempfile.mkdtemp(prefix="cascade-", dir=base))
        (self.session / "stacks").mkdir()

    def _start_ray(self) -> None:
        changed = (*_RAY_QUIET, _TOKEN_PATH, _TOKEN_MODE, janitor.MARKER)
        self._environment_before = {name: os.environ.get(name) for name in changed}
        os.environ.update(_RAY_QUIET)
        os.environ[janitor.MARKER] = str(self.session)  # inherited by all that Ray starts
        options: dict[str, Any] = {"address": self.config.ray_address}
        if not self.joined:
            # Other users of this machine must not be able to talk to the run's Ray.
            token = self.session / "token"
            token.touch(mode=0o600)
            token.write_text(_token(), encoding="ascii")
            os.environ[_TOKEN_PATH] = str(token)
            options = {
                "address": "local",
                "num_cpus": 1,
                "num_gpus": self.config.gpus_per_node if self.device == "gpu" else 0,
                "include_dashboard": False,
                "object_store_memory": self.config.object_store_mib * MIB,
                "_node_ip_address": LOOPBACK,
                "_temp_dir": str(self.session),
            }
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if self.config.ray_address is not None:
            wait_for_nodes(self.config.ray_address, self.config.num_nodes, self.config.join_deadline_s)
        with nullcontext() if self.joined else _on_loopback():
            ray.init(
                **options,
                namespace=self.session.name,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        address = ray.util.get_node_ip_address()
        if not self.joined and address != LOOPBACK:
            raise RuntimeError(f"Ray listens on {address}, not on the loopback address")
        del os.environ[janitor.MARKER]  # what the driver itself starts is its own affair
        if self.device == "gpu":
            self.slots = reserve_gpus(
                self.config.num_nodes * self.config.gpus_per_node, self.config.actor_start_deadline_s
            )

    def _keep_logs(self) -> None:
        """Copy the workers' non-empty logs out of the session before it is removed."""
        if self.log_folder is None:
            return
        self.log_folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("session_latest/logs/worker-*", "stacks/*"):
            for file in self.session.glob(pattern):
                if file.is_file() and file.stat().st_size:
                    shutil.copy2(file, self.log_folder / file.name)


@cache
def _token() -> str:
    """Return this process's secret for its Rays; Ray reads it once per process, so a second cluster has the same."""
    return secrets.token_hex(32)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Keep a Ray that is started meanwhile off the network.

    On Linux it would replace a loopback address by the machine's own; the switch that it has for other systems is
    read when Ray is imported, which may be long ago.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
