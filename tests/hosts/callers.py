"""What tests over several hosts ask of the service, and how they see what has come of it."""

import itertools
from typing import Any

from tests.chaos.faces.rest import Rest
from tests.hosts.service import API_PORT, Service, ServingHost, until

OPENING_CENTS = 1_000
# So many passes of the relay are taken for "it relays".
PASSES = 4
users = itertools.count(100)


def rest(host: ServingHost) -> Rest:
    return Rest(API_PORT, host=host.address)


def open_wallet(service: Service) -> int:
    user = next(users)
    face = rest(service.apis[1])
    status, _ = face.ask(user, "POST", "/api/deposit/v1", {"amount": OPENING_CENTS})
    face.close()
    assert status == 200
    return user


def enqueue(service: Service, payer: int, payee: int) -> int:
    face = rest(service.apis[1])
    status, answer = face.ask(payer, "POST", "/api/transfer/v2", {"destination_user_id": payee, "amount": 1})
    face.close()
    assert status == 202
    return int(answer["job_id"])


def give(api: ServingHost, user: int, payee: int, path: str) -> tuple[int, Any]:
    face, body = rest(api), {"amount": 1} | ({} if "deposit" in path else {"destination_user_id": payee})
    try:
        return face.ask(user, "POST", path, body)
    finally:
        face.close()


def is_posted(service: Service, transfer_id: int) -> bool:
    found = service.query("SELECT status::text FROM transfers WHERE id = %s", transfer_id)
    return bool(found[0]["status"] == "posted")


def find_relays(service: Service) -> list[ServingHost]:
    """Return who has relayed while some passes were made."""
    before = [worker.passes() for worker in service.workers]

    def grown() -> list[float]:
        return [worker.passes() - count for worker, count in zip(service.workers, before, strict=True)]

    until(lambda: sum(grown()) >= PASSES, "somebody relays", service.complaints)
    return [worker for worker, passes in zip(service.workers, grown(), strict=True) if passes]


def find_who_waits_for_a_lock(service: Service) -> tuple[ServingHost, int]:
    """Wait until a worker has something in hand that is locked; return which, and its session's pid."""
    found: list[tuple[ServingHost, int]] = []

    def waits_for_it() -> bool:
        found[:] = [
            (worker, session["pid"])
            for worker in service.workers
            for session in service.sessions(worker.address)
            if session["wait_event_type"] == "Lock"
        ]
        return bool(found)

    until(waits_for_it, "a worker has it in hand", service.complaints)
    return found[0]
