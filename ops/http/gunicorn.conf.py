# ruff: noqa: N999, E402 - gunicorn's usual name for this file; what follows the patch has to follow it
"""gunicorn's configuration: ``python -m gunicorn -c ops/http/gunicorn.conf.py wsgi:app``, from the project's root."""

from gevent import monkey

# Before anything is imported that makes a lock: greenlets that wait for a lock made before would stop the process.
# How the master forks and hears of its children stays as gunicorn has it.
monkey.patch_all(os=False, signal=False, subprocess=False)

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers import base

import config as service_config  # `config` would be taken for one of gunicorn's settings
from config.addresses import address_of
from observe import logs, metrics_files
from ops.http.gevent_worker import Worker
from ops.local.descriptors import allow_connections
from ops.local.launch import PR_SET_PDEATHSIG
from ops.local.supervisor import CONFIGURATION_STATUS

LIBRARIES = (
    "flask",
    "flask_compress",
    "flask_cors",
    "flask_limiter",
    "gunicorn.http",
    "orjson",
    "psycopg2.extras",
    "pydantic",
    "redis",
    "sqlalchemy.dialects.postgresql.psycopg2",
)
TOKEN_LIBRARIES = ("jwt",)

# On SIGHUP this file is read again, and the processes that follow are to run new code only. So of the application
# nothing is imported here but these two, which are read again as well.
for module in (service_config, logs):
    importlib.reload(module)
settings = service_config.load_or_exit(service_config.Settings)


class JsonLogger(Logger):
    """gunicorn's own events in our format. Requests are logged by the application, with more to say about them."""

    def setup(self, cfg: Config) -> None:
        """Hand everything to the root logger."""
        super().setup(cfg)
        logs.configure(settings.log_level, service="api")
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def when_ready(arbiter: Arbiter) -> None:
    """Look at what is really listened on, before anyone is served: ``-b`` and inherited sockets overrule HOST.

    And hear of a stop at once. gunicorn's master heeds no signal while it waits for the old processes of a reload: told
    to stop meanwhile, it would go through every reload that was asked for before.
    """
    for listener in arbiter.LISTENERS:
        if listener.sock.family == socket.AF_UNIX:
            continue
        host = listener.sock.getsockname()[0]
        try:
            settings.check_listening(host, called=f"listening on {host}")
        except ValueError as error:
            print(f"configuration error: {error}", file=sys.stderr)
            sys.exit(CONFIGURATION_STATUS)

    def stop(number: int, frame: FrameType | None) -> None:
        Worker.siblings.stop()
        arbiter.signal(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, stop)


def post_worker_init(worker: base.Worker) -> None:
    """Have the identity provider's keys before the first request, so that a reload makes nobody wait for them.

    And let the search for unused objects pass over what is loaded, which is used until the end: at its end alone Python
    would look through all of it for more than a second.
    """
    app: Any = worker.wsgi
    app.extensions["wallet"].identity.prefetch()
    gc.freeze()
    gc.enable()


def on_reload(arbiter: Arbiter) -> None:
    """Let the processes that are told to leave next know that they are being replaced.

    Raises:
        StopIteration: the master has been told to stop.
    """
    if Worker.siblings.are_stopping:
        raise StopIteration
    Worker.siblings.retire(arbiter.worker_age)


def pre_fork(_arbiter: Arbiter, _worker: base.Worker) -> None:
    """Have the collector of every process leave alone what is there now.

    It writes into each object that it looks at, and so into each page that the processes share.
    """
    gc.collect()
    gc.freeze()


def post_fork(arbiter: Arbiter, worker: base.Worker) -> None:
    """Let a worker process hear the signals meant for it, and die with its master.

    Until it sets up its own handlers it has the master's, which only note a signal for a loop that does not run here:
    told to stop in that moment, it would hold up the whole stop.

    And the port is to be free for the next master at once. By itself a worker whose master has died finds out within a
    second and then finishes its requests, all the while holding the port.
    """
    gc.disable()  # loading the application leaves nothing to collect, and would take a quarter longer
    gevent.reinit()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.SIGTERM in arbiter.wait_for_signals(timeout=0):
        sys.exit(0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if worker.ppid != os.getppid():
            sys.exit(0)


def worker_exit(_arbiter: Arbiter, worker: base.Worker) -> None:
    """Let an ending worker process give back its lease and its connections."""
    app = getattr(worker, "wsgi", None)
    if app is not None:  # it got as far as loading it
        app.extensions["wallet"].close()


def child_exit(_arbiter: Arbiter, worker: base.Worker) -> None:
    """Add what an ended worker process has counted to what those before it have."""
    Worker.siblings.forget(worker.age)
    metrics_files.tidy()


bind = address_of(settings.host, settings.port)
logger_class = JsonLogger
worker_class = "ops.http.gevent_worker.Worker"
workers = settings.api_processes
Worker.most_in_hand = settings.api_queue
# Each process loads the application itself: SIGHUP then brings new code, and no connection crosses a fork.
preload_app = False
# The libraries however are loaded once, here, and shared: new processes are ready sooner, and need less memory.
for library in (*LIBRARIES, *(TOKEN_LIBRARIES if settings.auth_mode == "jwt" else ())):
    importlib.import_module(library)
# Of a process. When there are more, the one whose client has been silent for longest makes room. Each is a descriptor,
# and a process has some more of its own.
worker_connections = 2000
allow_connections(worker_connections)
graceful_timeout = settings.graceful_timeout_s
# A worker that does not even get round to a heartbeat for this long is stuck.
timeout = 30
keepalive = 15
# The heartbeat's file; memory where the system has it, since a slow disk would look like a stuck worker.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# Nobody needs longer ones, and they are read before anything else can refuse them.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
# By default gunicorn believes anyone on this machine about schemes and paths. What a proxy may say is TRUSTED_PROXIES'
# business, and the application reads it itself (api/edge/proxies.py).
forwarded_allow_ips = ""
proxy_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# Nor is a prefix of all paths, which gunicorn would take from here, and then answer no other path at all.
os.environ.pop("SCRIPT_NAME", None)
# On by default: a socket that lets others on this machine steer the server.
control_socket_disable = True
