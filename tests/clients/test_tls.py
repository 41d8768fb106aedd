"""TLS as the page on gRPC shows it: its commands make the certificates, and its lines a channel."""

import subprocess
from pathlib import Path

import grpc
import pytest
from sqlalchemy import Engine

from tests.clients.conftest import grpc_process, wait_until_ready
from tests.docs.pages import DOCS, blocks, commands, section
from wallet.v1.wallet_pb2 import AmountRequest
from wallet.v1.wallet_pb2_grpc import WalletServiceStub

SECTION = section(DOCS / "grpc.md", "TLS")
TARGET = "localhost:8081"
ME = (("authorization", "1"),)


def test_the_pages_commands_and_lines_make_mutual_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine, database_url: str, redis_url: str
) -> None:
    del engine  # no wallet is left
    monkeypatch.chdir(tmp_path)
    for command in commands(SECTION):
        subprocess.run(command, shell=True, check=True, capture_output=True, timeout=60)  # noqa: S602 - our own page
    files = {"GRPC_TLS_CERT": "server.crt", "GRPC_TLS_KEY": "server.key", "GRPC_TLS_CLIENT_CA": "ca.crt"}
    settings = {name: str(tmp_path / file) for name, file in files.items()}
    (lines,) = blocks(SECTION, "python")
    assert lines.count(TARGET) == 1
    with grpc_process(**settings, DATABASE_URL=database_url, REDIS_URL=redis_url) as target:
        made: dict[str, grpc.Channel] = {}
        exec(lines.replace(TARGET, target), made)  # noqa: S102 - our own page
        with made["channel"] as channel:
            wait_until_ready(channel)
            reply = WalletServiceStub(channel).Deposit(AmountRequest(amount=67), metadata=ME, timeout=30)
            assert reply.balance == 67
        refused = _deposit_without_certificate(target, tmp_path / "ca.crt")
        assert refused == (grpc.StatusCode.UNAVAILABLE, None)


def _deposit_without_certificate(target: str, authority: Path) -> tuple[grpc.StatusCode, str | bytes | None]:
    """Return the code of the refusal, and that of the contract, which the service has not come to say."""
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    with grpc.secure_channel(target, credentials) as stranger, pytest.raises(grpc.RpcError) as refused:
        WalletServiceStub(stranger).Deposit(AmountRequest(amount=67), metadata=ME, timeout=30)
    told = {each.key: each.value for each in refused.value.trailing_metadata() or ()}
    return refused.value.code(), told.get("error-code")
