"""What follows from what a transfer costs: cores, log and disk at a rate, and what spreading wallets over shards does.

Pure. Nothing here was measured: it is what would be, if each transfer cost what one was measured to cost.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

DAY_S = 86_400
GB = 1e9
# Of a core that is to answer in time. Above it, queues grow.
MOST_BUSY = 0.6


@dataclass(frozen=True, slots=True)
class Load:
    """What a rate takes: cores by part, bytes of log a second, and bytes a day of log and on disk."""

    cores: Mapping[str, float]
    log_bytes_s: float
    log_bytes_day: float
    disk_bytes_day: float


def load_of(rate: float, spent_us: Mapping[str, float], *, log_bytes: float, disk_bytes: float) -> Load:
    """Return what so many transfers a second take all day.

    Args:
        rate: transfers a second.
        spent_us: what one costs each part, in microseconds of a core.
        log_bytes: what one writes to the log.
        disk_bytes: what one leaves on disk.
    """
    return Load(
        cores={part: rate * spent / 1e6 / MOST_BUSY for part, spent in spent_us.items()},
        log_bytes_s=rate * log_bytes,
        log_bytes_day=rate * log_bytes * DAY_S,
        disk_bytes_day=rate * disk_bytes * DAY_S,
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """What comes of wallets that are spread over shards by their ids: shares from 0 to 1."""

    # Of the transfers those whose two wallets are on different shards: there they would be two transactions.
    crossing: float
    # Of all entries those on the shard that has most, as a multiple of an equal share.
    fullest: float


def spread(shards: int, *, wallets: int, transfers: int, skew: float, seed: int = 1) -> Spread:
    """Draw transfers between wallets of which some are more popular, and see on which shards they fall.

    Args:
        shards: how many there are.
        wallets: likewise.
        transfers: how many are drawn.
        skew: Zipf's exponent for those who are paid; 0: all alike. Payers are all alike.
        seed: of the draw.
    """
    draws = random.Random(seed)
    place = [draws.randrange(shards) for _ in range(wallets)]
    popularity = list(accumulate(1 / rank**skew for rank in range(1, wallets + 1)))
    payees = draws.choices(range(wallets), cum_weights=popularity, k=transfers)
    payers = [draws.randrange(wallets) for _ in payees]
    pairs = [(place[payer], place[payee]) for payer, payee in zip(payers, payees, strict=True)]
    entries = Counter(shard for pair in pairs for shard in pair)
    return Spread(
        crossing=sum(one != other for one, other in pairs) / transfers,
        fullest=max(entries.values()) * shards / (2 * transfers),
    )


def hottest_share(wallets: int, skew: float) -> float:
    """Return the share of all transfers that goes to the most popular wallet, by Zipf's law."""
    return 1 / math.fsum(1 / rank**skew for rank in range(1, wallets + 1))


def rates_at_which_one_wallet_is_too_hot(ceiling: float, wallets: int, skews: Sequence[float]) -> dict[float, float]:
    """Return, for each skew, the rate of all transfers at which the most popular wallet alone gets its ceiling."""
    return {skew: ceiling / hottest_share(wallets, skew) for skew in skews}
