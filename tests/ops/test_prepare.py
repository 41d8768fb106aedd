"""The demo deposits are deposits like any other: whoever reads the wallets sees them."""

import redis
from sqlalchemy import Engine

from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from ops.prepare import DEMO_CENTS, open_demo_wallets
from tests.models.cache.caching import cache_at, hit, missed, put
from tests.models.ledger.ordering import balances, deposit


def test_a_demo_deposit_into_a_wallet_that_was_there_is_seen_by_whoever_reads_it_cached(
    engine: Engine, snowflake: Snowflake, redis_client: redis.Redis, redis_url: str
) -> None:
    del redis_client
    with cache_at(redis_url, engine) as reader, cache_at(redis_url, engine) as own:
        Orders(engine, snowflake, reader).execute(deposit(1, 5))
        put(reader, 1, 1, b"5")
        assert hit(reader, 1) == b"5"
        open_demo_wallets(engine, own)
        missed(reader, 1)
        assert balances(engine) == {1: DEMO_CENTS + 5, 2: DEMO_CENTS}
        put(reader, 1, 2, b"10005")
        open_demo_wallets(engine, own)
        assert hit(reader, 1) == b"10005"
