"""How old a read from a standby would be: what is committed on the primary, and when the standby has it, under load."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import cast

import psycopg2

from bench import asks
from bench.asks import Kind
from bench.edge import MANY, WARM_UP_S, asker
from bench.figures import BenchError, Figure, Plan, Values
from bench.flood import FloodError, flood
from bench.site import Site
from bench.steady import percentile
from ops.local.server import own
from ops.local.servers import PostgresServer

# Between two looks at the primary. Each takes a while itself.
PAUSE_S = 0.005
# Longer than any: the standby is broken.
LONGEST_S = 30.0
_COMMITTED = "SELECT pg_current_wal_flush_lsn()::text"
_HAS_IT = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"


@dataclass(frozen=True, slots=True)
class Lag:
    """Milliseconds, of an asynchronous standby on the same machine, while v1 is posted as fast as it goes."""

    name: str = "lag"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Half of all looks, 99 of 100, and the longest."""
        words = {"p50": "half of the time", "p99": "99 of 100", "most": "the longest"}
        return tuple(
            Figure(key=f"lag_{key}", label=f"a standby lags, {word}", unit="ms") for key, word in words.items()
        )

    def take(self, site: Site, plan: Plan) -> Values:
        """Look again and again for as long as all windows of a kind last in other measures."""
        asks.lay_out(site)
        lags_ms: list[float] = []
        with site.api() as api, _standby_of(site) as standby, _looking(site, standby, lags_ms):
            try:
                warm, window = (
                    flood(api.port, asker(Kind.NOW), connections=MANY, seconds=seconds, status=Kind.NOW.status)
                    for seconds in (WARM_UP_S, plan.window_s * plan.windows)
                )
            except FloodError as error:
                raise BenchError(str(error)) from error
        asks.check(site, posted=warm.answers + window.answers)
        if not lags_ms:
            raise BenchError("nobody has looked at the standby")
        ordered = sorted(lags_ms)
        return {
            "lag_p50": percentile(ordered, 0.5),
            "lag_p99": percentile(ordered, 0.99),
            "lag_most": ordered[-1],
            "lag_rate": window.rate,
        }


@contextmanager
def _standby_of(site: Site) -> Iterator[PostgresServer]:
    """Have a standby, as pg_basebackup makes them."""
    home = site.home / "standby"
    shutil.rmtree(home, ignore_errors=True)
    server = PostgresServer(home)
    server.prepare()
    shutil.copytree(site.postgres.home / "secrets", home / "secrets", dirs_exist_ok=True)
    program = str(site.postgres.program.with_name("pg_basebackup"))
    command = [program, "-D", str(server.data), "-R", "-cfast", "-d", site.postgres.admin_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"pg_basebackup has failed: {done.stderr.strip()}")
    own(server.data, server.identity)
    try:
        server.launch()
        deadline = time.monotonic() + LONGEST_S
        while not server.is_ready():
            if time.monotonic() > deadline:
                raise BenchError("the standby does not answer")
            time.sleep(0.1)
        yield server
    finally:
        server.stop()


@contextmanager
def _looking(site: Site, standby: PostgresServer, lags_ms: list[float]) -> Iterator[None]:
    """Look meanwhile, in a thread."""
    over = threading.Event()
    thread = threading.Thread(target=_look, args=(site.postgres.admin_url, standby.admin_url, lags_ms, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look(primary_url: str, standby_url: str, lags_ms: list[float], over: threading.Event) -> None:
    with closing(psycopg2.connect(primary_url)) as one, closing(psycopg2.connect(standby_url)) as other:
        one.autocommit = other.autocommit = True
        with one.cursor() as primary, other.cursor() as standby:
            while not over.wait(PAUSE_S):
                primary.execute(_COMMITTED)
                place, began = cast("tuple[str]", primary.fetchone())[0], time.perf_counter()
                while not over.is_set():
                    standby.execute(_HAS_IT, [place])
                    if cast("tuple[bool]", standby.fetchone())[0]:
                        lags_ms.append((time.perf_counter() - began) * 1000)
                        break
