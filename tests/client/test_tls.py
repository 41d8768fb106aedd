"""Over TLS a client believes whom it is told to believe, and nobody else."""

import ssl
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.client.conftest import Pauses
from tests.client.stand_in import StandIn
from wallet_client import Unavailable, WalletClient


def test_a_certificate_is_checked_before_anything_is_sent(tmp_path: Path, pauses: Pauses) -> None:
    pem = make_certificate(tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pem)
    believing = ssl.create_default_context(cafile=str(pem))
    believing.check_hostname = False  # it is localhost's, and was asked for by an address
    with StandIn(served) as stand_in:
        stand_in.answer = b'{"balance": 7}'
        with (
            WalletClient(stand_in.url, user_id=1, retries=pauses.retries(tries=2)) as client,
            pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.balance()
        assert stand_in.heard == []
        with WalletClient(stand_in.url, user_id=1, context=believing) as client:
            assert [client.balance().balance for _ in range(2)] == [7, 7]
