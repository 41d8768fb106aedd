"""A shop gives back what a customer has paid, in two parts and no more: refund.py <url>."""

import sys

from wallet_client import Refused, WalletClient

SHOP, CUSTOMER = 300, 301
ORDER = "order-9001"


def find_payment(shop: WalletClient, order: str) -> int:
    """Return the transfer by which an order was paid.

    Raises:
        LookupError: it was not.
    """
    for transfer in shop.transfers(direction="in", status="posted", reference=order):
        return transfer.job_id
    raise LookupError(order)


def main(url: str) -> None:
    """Pay, give half of it back, then the rest, then too much."""
    with WalletClient(url, user_id=SHOP) as shop, WalletClient(url, user_id=CUSTOMER) as customer:
        shop.deposit(1, description="opening", idempotency_key="opening")
        customer.deposit(1_000, idempotency_key=f"{ORDER}/card-payment")
        customer.transfer_now(SHOP, 1_000, reference=ORDER, idempotency_key=f"{ORDER}/goods")
        paid = find_payment(shop, ORDER)
        # Each part has a key of its own; asked for again, it is the same part.
        print("half is back: the shop has", shop.reverse(paid, 500, idempotency_key=f"{ORDER}/refund/half").balance)
        print("the rest is back: it has", shop.reverse(paid, idempotency_key=f"{ORDER}/refund/rest").balance)
        print("given back in all:", shop.transfer(paid).reversed_amount)
        try:
            shop.reverse(paid, 500, idempotency_key=f"{ORDER}/refund/once-more")
        except Refused as no:
            print("once more is refused:", no.code)
        print("the customer has", customer.balance().balance)


main(sys.argv[1])
