"""Ten thousand transfers in one request, beside the same sent one by one, and what a single one waits behind them."""

import http.client
import json
import random
import time
from contextlib import ExitStack, closing
from statistics import median

from sqlalchemy import text

from bench import asks, backlog
from bench.asks import AMOUNT_CENTS, HOT, Kind
from bench.backlog import WALLETS
from bench.crew import at_work
from bench.edge import FEW, WARM_UP_S, WORKERS, asker
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.flood import FloodError, flood
from bench.site import SERVICE, Site
from bench.windows import Windows
from ops.local.server import LOOPBACK

ITEMS = 10_000
PATH = "/api/transfers/bulk/v1"
_SETTLED = text(
    "SELECT max(completed_at) - min(created_at) AS took FROM transfers WHERE bulk_id IS NOT NULL AND id > :id"
)
_NEWEST = text("SELECT coalesce(max(id), 0) FROM transfers")


class Bulk:
    """Bulks and windows of v2 in turns, with two workers; with each bulk a v2 that comes just after it."""

    name = "bulk"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Items a second that are accepted, and that are settled; seconds of a request, and of who comes after it."""
        what = f"bulk of {ITEMS:,}"
        return (
            Figure(key="bulk_accepted", label=f"{what}, accepted", unit="/s", ratios=(Ratio("bulk_v2", 10.0),)),
            Figure(key="bulk_request", label=f"{what}, until the answer", unit="s", at_most=1.0),
            Figure(key="bulk_settled", label=f"{what}, accepted and settled", unit="/s"),
            Figure(key="bulk_single", label=f"a v2 just after a {what}, until posted", unit="s", at_most=1.0),
            Figure(
                key="bulk_v2", label=f"v2 one by one, {FEW} connections", unit="/s", is_yardstick=True, short="v2",
            ),
        )  # fmt: skip

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask ``plan.windows`` times each."""
        asks.lay_out(site)
        workers = [site.worker(number) for number in range(1, WORKERS + 1)]
        bulks: list[dict[str, float]] = []
        rates = []
        with ExitStack() as stack:
            stack.enter_context(at_work(site.redis, workers))
            api = stack.enter_context(site.api())
            windows = Windows(site, workers, {"api": [api.process]})
            ask = asker(Kind.LATER)
            try:
                for seconds in (WARM_UP_S, *[plan.window_s] * plan.windows):
                    rates.append(
                        windows.fill(
                            Kind.LATER,
                            lambda seconds=seconds: flood(  # type: ignore[misc] # mypy does not see the default
                                api.port, ask, connections=FEW, seconds=seconds, status=Kind.LATER.status
                            ),
                        ).rate
                    )
                    bulks.append(_send(site, api.port, number=len(bulks)))
            except FloodError as error:
                raise BenchError(str(error)) from error
        asks.check(site, posted=windows.transfers + len(bulks) * (ITEMS + 1))
        found = {key: median(each[key] for each in bulks[1:]) for key in bulks[0]}
        return found | {"bulk_v2": median(rates[1:])}


def _send(site: Site, port: int, *, number: int) -> dict[str, float]:
    draws = random.Random(number)
    payer = HOT + number
    payees = [draws.randint(HOT + 100, WALLETS) for _ in range(ITEMS)]
    body = {"transfers": [{"destination_user_id": each, "amount": AMOUNT_CENTS} for each in payees]}
    raw = json.dumps(body).encode()
    with site.engines[SERVICE].connect() as connection:
        newest = connection.execute(_NEWEST).scalar_one()
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=60)) as client:
        headers = {"Content-Type": "application/json", "Authorization": str(payer)}
        began = time.perf_counter()
        client.request("POST", PATH, raw, headers)
        answer = client.getresponse()
        answer.read()
        took_s = time.perf_counter() - began
        single = json.dumps({"destination_user_id": HOT + 99, "amount": AMOUNT_CENTS}).encode()
        began = time.perf_counter()
        client.request("POST", "/api/transfer/v2", single, headers | {"Authorization": str(HOT + 98)})
        found = json.loads(client.getresponse().read())
        client.request("GET", f"{found['status_url']}?wait=20", headers={"Authorization": str(HOT + 98)})
        job = json.loads(client.getresponse().read())
        single_s = time.perf_counter() - began
    if answer.status != Kind.LATER.status or job["status"] != "posted":
        raise BenchError(f"a bulk was answered {answer.status}, and the transfer after it is {job}")
    backlog.wait_until_final(site.engines[SERVICE])
    backlog.wait_until_booked(site.redis)
    with site.engines[SERVICE].connect() as connection:
        settled_s = connection.execute(_SETTLED, {"id": newest}).scalar_one().total_seconds()
    return {
        "bulk_accepted": ITEMS / took_s,
        "bulk_request": took_s,
        "bulk_settled": ITEMS / settled_s,
        "bulk_single": single_s,
    }
