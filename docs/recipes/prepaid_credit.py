"""A customer pays in advance, and spends until nothing is left: prepaid_credit.py <url>."""

import sys

from wallet_client import Refused, WalletClient

SHOP, CUSTOMER = 200, 201
# What a payment provider tells of, maybe more than once; and what was used, as the shop has written it down.
PAYMENTS = {"card-88": 1_000}
USES = {"call-1": 400, "call-2": 400, "call-3": 400}


def top_up(customer: WalletClient, payment: str, amount: int) -> int:
    """Credit a payment, once however often it is told of; return the balance."""
    key = f"top-up/{payment}"
    return customer.deposit(amount, description="top-up", reference=payment, idempotency_key=key).balance


def spend(customer: WalletClient, use: str, amount: int) -> bool:
    """Take for a use, once however often it is asked for; return whether there was enough."""
    key = f"use/{use}"
    try:
        customer.transfer_now(SHOP, amount, description="used", reference=use, idempotency_key=key)
    except Refused as no:
        if no.code != "balance_insufficient":
            raise
        return False
    return True


def main(url: str) -> None:
    """Top up, use, be refused, and look at what has happened."""
    with WalletClient(url, user_id=SHOP) as shop:
        shop.deposit(1, description="opening", idempotency_key="opening")
    with WalletClient(url, user_id=CUSTOMER) as customer:
        for payment, amount in PAYMENTS.items():
            print(f"{payment} is credited, the balance was", top_up(customer, payment, amount))
        for use, amount in USES.items():
            print(use, "is paid" if spend(customer, use, amount) else "finds too little")
        print("the balance is", customer.balance().balance)
        for entry in customer.transactions():
            print(f"{entry.amount:+6} {entry.desc} ({entry.reference}) {entry.balance_after:>6}")


main(sys.argv[1])
