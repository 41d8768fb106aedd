"""A buyer pays an order with many sellers, and the platform takes its fee: marketplace_payout.py <url>."""

import sys

from wallet_client import Refused, WalletClient

PLATFORM, BUYER = 100, 101
ORDER = "order-7001"
PRICES = {102: 4_900, 103: 1_250, 104: 333}  # of each seller, in cents
FEE_PERCENT = 5


def pay(buyer: WalletClient, order: str) -> list[bool]:
    """Pay everybody, and return of each transfer whether it had been made before."""
    made = []
    for seller, price in PRICES.items():
        fee = price * FEE_PERCENT // 100  # whole cents; what rounding leaves is the seller's
        for payee, amount, what in ((seller, price - fee, "goods"), (PLATFORM, fee, "fee")):
            moved = buyer.transfer_now(
                payee,
                amount,
                description=f"{what}, seller {seller}",
                reference=order,
                idempotency_key=f"{order}/{seller}/{what}",  # the same in each run: it is paid once
            )
            made.append(moved.replayed)
    return made


def main(url: str) -> None:
    """Open the wallets, let the money run out on the way, and go on."""
    for user in (PLATFORM, BUYER, *PRICES):
        with WalletClient(url, user_id=user) as wallet:
            wallet.deposit(1, description="opening", idempotency_key="opening")
    with WalletClient(url, user_id=BUYER) as buyer:
        buyer.deposit(5_000, idempotency_key=f"{ORDER}/first-card-payment")
        try:
            pay(buyer, ORDER)
        except Refused as no:
            print("stopped on the way:", no.code)
            buyer.deposit(1_483, idempotency_key=f"{ORDER}/second-card-payment")
        made = pay(buyer, ORDER)
        print(f"paid: {len(made)} transfers, {sum(made)} of them before")
        print("the buyer has", buyer.balance().balance)
    for user in (PLATFORM, *PRICES):
        with WalletClient(url, user_id=user) as wallet:
            print(f"user {user} has", wallet.balance().balance)


main(sys.argv[1])
