"""A client of the wallet service: typed, and such that money moves once however often something is repeated.

::

    with WalletClient("http://127.0.0.1:8080", user_id=1) as wallet:
        job = wallet.transfer_later(2, 1003, description="rent", idempotency_key="rent-november")
        print(wallet.wait_for(job.job_id).status)
"""

from wallet_client.admin import NEWEST, AdminClient
from wallet_client.errors import (
    BadRequest,
    EventsMissed,
    Forbidden,
    NotFinal,
    NotFound,
    OutcomeUnknown,
    Problem,
    RateLimited,
    Refused,
    Unauthorized,
    Unavailable,
    WalletError,
)
from wallet_client.retries import NO_RETRIES, Retries
from wallet_client.wallet import Payment, WalletClient

__all__ = [
    "NEWEST",
    "NO_RETRIES",
    "AdminClient",
    "BadRequest",
    "EventsMissed",
    "Forbidden",
    "NotFinal",
    "NotFound",
    "OutcomeUnknown",
    "Payment",
    "Problem",
    "RateLimited",
    "Refused",
    "Retries",
    "Unauthorized",
    "Unavailable",
    "WalletClient",
    "WalletError",
]
