"""What administrators may do."""

import base64
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Unpack

from wallet_client import operations
from wallet_client.calling import Asked
from wallet_client.client import LONGEST_WAIT_S, MOST_OF_A_PAGE, Client, Options, without_none
from wallet_client.errors import EventsMissed
from wallet_client.resources import (
    Action,
    ActionsPage,
    AddedWebhook,
    Audit,
    DeadLettersPage,
    DeliveriesPage,
    Event,
    EventsPage,
    ReplayedWebhook,
    Requeued,
    RotatedWebhook,
    Statement,
    TestedWebhook,
    Transfer,
    WalletState,
    Webhook,
)

# What comes after it has yet to come.
NEWEST = 2**63 - 1


class AdminClient(Client):
    """Calls of an administrator. Every method may raise a :class:`~wallet_client.errors.WalletError`."""

    def __init__(self, base_url: str, *, password: str, user: str = "admin", **options: Unpack[Options]) -> None:
        """Connect to nothing yet.

        Args:
            base_url: where the service is.
            password: the administrator's.
            user: his name.
            options: see :class:`~wallet_client.client.Options`.

        Raises:
            ValueError: ``base_url`` is no URL.
        """
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        super().__init__(base_url, lambda: basic, options)

    def dead_letters(self, *, page_size: int = MOST_OF_A_PAGE) -> Iterator[Transfer]:
        """Iterate over the transfers whose attempts ran out, newest first."""
        page = self.dead_letters_page(page_size=page_size)
        yield from page.dead_letters
        while page.has_more:
            page = self.dead_letters_page(page_size=page_size, cursor=page.next_cursor)
            yield from page.dead_letters

    def dead_letters_page(self, *, page_size: int = 30, cursor: str | None = None) -> DeadLettersPage:
        """Return a page of them: from the newest on, or from another page's ``next_cursor``."""
        return self._caller.call(operations.DEAD_LETTERS, Asked(query={"page_size": page_size, "cursor": cursor}))

    def requeue(self, job_id: int) -> Requeued:
        """Put a dead letter back, with all its attempts."""
        return self._caller.call(operations.REQUEUE, Asked(path={"job_id": job_id}))

    def requeue_all(self) -> int:
        """Put all dead letters back, and return how many there were."""
        return self._caller.call(operations.REQUEUE_ALL).requeued

    def follow(self, after: int | None = None, *, wait_s: float = LONGEST_WAIT_S) -> Iterator[Event]:
        """Iterate over what happens to transfers, oldest first, for ever: each event once, in order.

        Keep ``event_id`` together with what you have made of an event, and go on from there another time.

        Args:
            after: the last event that is known; without it, from the oldest one kept; :data:`NEWEST` for what is new.
            wait_s: how long one request may wait for an event, 20 at most.

        Raises:
            EventsMissed: some between ``after`` and the oldest one kept are gone.
        """
        while True:
            page = self.events_page(after=after, page_size=MOST_OF_A_PAGE, wait_s=wait_s)
            if page.missed and after is not None:
                raise EventsMissed(page.missed)
            yield from page.events
            after = page.next_after

    def events_page(self, *, after: int | None = None, page_size: int = 30, wait_s: float = 0.0) -> EventsPage:
        """Return the events after one, waiting for the first if asked to; go on with ``next_after``."""
        query = {"after": after, "page_size": page_size, "wait": wait_s or None}
        return self._caller.call(operations.EVENTS, Asked(query=query, wait_s=wait_s))

    def audit(self) -> Audit:
        """Return what the last audit of the books found, and how far the next one is."""
        return self._caller.call(operations.AUDIT)

    def actions(self, *, page_size: int = MOST_OF_A_PAGE) -> Iterator[Action]:
        """Iterate over what administrators did, newest first."""
        page = self.actions_page(page_size=page_size)
        yield from page.actions
        while page.has_more:
            page = self.actions_page(page_size=page_size, cursor=page.next_cursor)
            yield from page.actions

    def actions_page(self, *, page_size: int = 30, cursor: str | None = None) -> ActionsPage:
        """Return a page of it: from the newest on, or from another page's ``next_cursor``."""
        return self._caller.call(operations.ACTIONS, Asked(query={"page_size": page_size, "cursor": cursor}))

    def wallet(self, user_id: int) -> WalletState:
        """Return a user's wallet, and what it may not do."""
        return self._caller.call(operations.WALLET, Asked(path={"user_id": user_id}))

    def statement(self, user_id: int, first_day: date, last_day: date) -> Statement:
        """Return all entries of a user's days (UTC's, both included), oldest first, and the balances around them."""
        return self._statement(first_day, last_day, user_id)

    def statement_csv(self, user_id: int, first_day: date, last_day: date) -> str:
        """Return the same as CSV."""
        return self._statement_csv(first_day, last_day, user_id)

    def freeze(
        self, user_id: int, *, reason: str, debits: bool | None = True, credits_: bool | None = None
    ) -> WalletState:
        """Forbid a wallet to pay (debits), to be paid (credits), or both; what is None stays as it is."""
        body = without_none({"debits": debits, "credits": credits_, "reason": reason})
        return self._caller.call(operations.FREEZE, Asked(path={"user_id": user_id}, body=body))

    def unfreeze(
        self, user_id: int, *, reason: str | None = None, debits: bool | None = None, credits_: bool | None = None
    ) -> WalletState:
        """Allow it again: the sides that are named, or both."""
        body = without_none({"debits": debits, "credits": credits_, "reason": reason})
        return self._caller.call(operations.UNFREEZE, Asked(path={"user_id": user_id}, body=body))

    def add_webhook(self, url: str, *, types: Sequence[str] = ("*",), user_id: int | None = None) -> AddedWebhook:
        """Have events sent to a URL: all, or some types, or a user's. Its ``secret`` is told this once."""
        body = without_none({"url": url, "types": list(types), "user_id": None if user_id is None else str(user_id)})
        return self._caller.call(operations.ADD_WEBHOOK, Asked(body=body))

    def webhooks(self) -> tuple[Webhook, ...]:
        """Return all webhooks."""
        return self._caller.call(operations.WEBHOOKS).webhooks

    def remove_webhook(self, webhook_id: int) -> None:
        """Have nothing sent there any more."""
        self._caller.call(operations.REMOVE_WEBHOOK, Asked(path={"webhook_id": webhook_id}))

    def rotate_webhook(self, webhook_id: int) -> RotatedWebhook:
        """Give it a new secret, which is told this once; the old one signs along for a day."""
        return self._caller.call(operations.ROTATE_WEBHOOK, Asked(path={"webhook_id": webhook_id}))

    def test_webhook(self, webhook_id: int) -> TestedWebhook:
        """Have a ``webhook.test`` event sent."""
        return self._caller.call(operations.TEST_WEBHOOK, Asked(path={"webhook_id": webhook_id}))

    def enable_webhook(self, webhook_id: int) -> Webhook:
        """Have events sent again, after it was disabled."""
        return self._caller.call(operations.ENABLE_WEBHOOK, Asked(path={"webhook_id": webhook_id}))

    def deliveries_page(
        self, webhook_id: int, *, status: str | None = None, page_size: int | None = None, cursor: str | None = None
    ) -> DeliveriesPage:
        """Return what was sent, and what came of it, newest first."""
        query = {"status": status, "page_size": page_size, "cursor": cursor}
        return self._caller.call(operations.DELIVERIES, Asked(path={"webhook_id": webhook_id}, query=query))

    def replay_webhook(
        self, webhook_id: int, *, since: datetime | None = None, event_id: int | None = None
    ) -> ReplayedWebhook:
        """Have events sent again: all since an instant, or one.

        Raises:
            ValueError: not exactly one of ``since`` and ``event_id`` is given.
        """
        if (since is None) == (event_id is None):
            raise ValueError("one of since and event_id should be given")
        body: dict[str, object] = {"event_id": str(event_id)} if since is None else {"since": since}
        return self._caller.call(operations.REPLAY_WEBHOOK, Asked(path={"webhook_id": webhook_id}, body=body))
