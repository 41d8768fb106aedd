"""Finding transfers: one's own, or, for administrators, everyone's."""

from api.calls.problems import ApiError
from api.contract.finding import TransfersQuery
from api.services import Services
from models.ledger.listing import TransferPage


def find(services: Services, caller: int | None, query: TransfersQuery) -> TransferPage:
    """Return a page of the transfers that a query asks for.

    Args:
        services: of the process.
        caller: the user who asks; None: an administrator.
        query: what he knows of them.

    Raises:
        ApiError: ``bad_input``: a user asks for somebody's transfers.
        NoIndexServes: an administrator asks for a walk through everybody's.
        WalletNotFound: the user whose transfers are asked for has no wallet.
        Unavailable: the database cannot be reached.
    """
    user_id = whose(caller, query.user_id)
    page = services.listing.get_page(query.filters(user_id), size=query.page_size, after=query.cursor)
    if user_id is not None and not page.transfers:
        services.history.get_balance(user_id)  # who has none has no transfers, and is to be told why
    return page


def whose(caller: int | None, asked: int | None) -> int | None:
    """Return whose transfers or entries are asked for: a user's own; None: everyone's.

    Raises:
        ApiError: ``bad_input``: a user has said whose.
    """
    if caller is not None and asked is not None:
        raise ApiError("bad_input", "query: user_id: is for administrators only")
    return caller if caller is not None else asked
