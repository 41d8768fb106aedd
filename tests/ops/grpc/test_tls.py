"""TLS by setting: whom it lets in, certificates that are renewed meanwhile, files that are wrong."""

import itertools
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
import redis
from cryptography import x509
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine

from config import Settings
from ops.grpc.tls import Renewed
from ops.local.processes import wait_for
from tests.api.grpc.server import TIMEOUT_S, GrpcServer, connect, fund, grpc_server
from tests.nursery import run
from tests.ops.grpc.certificates import Pair
from tests.project import ROOT


class Files:
    """What the settings point to, and who is behind it."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.others = Pair.authority(), Pair.authority("others")
        self.cert, self.key, self.client_ca = (folder / name for name in ("cert.pem", "key.pem", "client-ca.pem"))
        self.use(self.authority.vouch_for("first"))
        self.client_ca.write_bytes(self.authority.pem)

    def use(self, pair: Pair) -> None:
        self.write(self.cert, pair.pem)
        self.write(self.key, pair.key_pem)

    def write(self, file: Path, content: bytes) -> None:
        """Put another file in its place, as whoever renews certificates does."""
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)

    @property
    def settings(self) -> dict[str, str]:
        return {"GRPC_TLS_CERT": str(self.cert), "GRPC_TLS_KEY": str(self.key)}

    @property
    def mutual(self) -> dict[str, str]:
        return self.settings | {"GRPC_TLS_CLIENT_CA": str(self.client_ca)}

    def credentials(self, client: Pair | None = None) -> grpc.ChannelCredentials:
        """What a caller needs who trusts the authority."""
        own = (None, None) if client is None else (client.key_pem, client.pem)
        return grpc.ssl_channel_credentials(self.authority.pem, *own)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def environment(grpc_environment: dict[str, str], engine: Engine, redis_client: redis.Redis) -> dict[str, str]:
    """What a process is set to, on empty tables."""
    del engine, redis_client  # asked for to be emptied
    return grpc_environment | {"RATE_LIMIT": "off"}


@contextmanager
def served(files: Files, settings: dict[str, str], client: Pair | None = None) -> Iterator[GrpcServer]:
    """Run a process with these settings, and be connected to it."""
    log = files.cert.with_name("grpc.log")
    with grpc_server(log, lambda port: connect(port, files.credentials(client)), **settings) as server:
        yield server


def name_shown(port: int) -> str:
    """Whose certificate a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection,
        context.wrap_socket(connection) as line,
    ):
        shown = line.getpeercert(binary_form=True)
    assert shown is not None
    names = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value)


def test_who_speaks_tls_is_answered_and_nobody_else(environment: dict[str, str], files: Files) -> None:
    with served(files, environment | files.settings) as server:
        fund(server, 1)
        assert server.ask("GetBalance").message.balance == 10_000
        with closing(connect(server.port)) as plain:
            assert server.ask("GetBalance", channel=plain).code is grpc.StatusCode.UNAVAILABLE
        stranger = grpc.ssl_channel_credentials(files.others.pem)
        with closing(connect(server.port, stranger)) as mistrusting:
            assert server.ask("GetBalance", channel=mistrusting).code is grpc.StatusCode.UNAVAILABLE
        assert server.ask("GetBalance").message.balance == 10_000


def test_with_mutual_tls_callers_need_a_certificate_of_the_authority(environment: dict[str, str], files: Files) -> None:
    known, unknown = files.authority.vouch_for("caller"), files.others.vouch_for("caller")
    with served(files, environment | files.mutual, known) as server:
        fund(server, 1)
        for client in (None, unknown):
            with closing(connect(server.port, files.credentials(client))) as channel:
                assert server.ask("GetBalance", channel=channel).code is grpc.StatusCode.UNAVAILABLE
        with closing(connect(server.port, files.credentials(known))) as channel:
            assert server.ask("GetBalance", channel=channel).message.balance == 10_000


def test_a_renewed_certificate_is_used_without_a_restart(environment: dict[str, str], files: Files) -> None:
    with served(files, environment | files.settings) as server:
        fund(server, 1)
        assert name_shown(server.port) == "first"
        for name in ("second", "third"):
            files.use(files.authority.vouch_for(name))
            # Whoever comes is shown it; who is connected goes on.
            assert wait_for(lambda name=name: name_shown(server.port) == name, TIMEOUT_S)  # type: ignore[misc]
            assert server.ask("GetBalance").message.balance == 10_000
            with closing(connect(server.port, files.credentials())) as channel:
                assert server.ask("GetBalance", channel=channel).message.balance == 10_000
        assert len(server.wait_for_lines(event="a new certificate is used from now on")) == 2


def test_a_pair_that_is_half_written_is_passed_over_until_it_is_whole(
    environment: dict[str, str], files: Files
) -> None:
    second = files.authority.vouch_for("second")
    with served(files, environment | files.settings) as server:
        files.write(files.cert, second.pem)
        assert [name_shown(server.port) for _ in range(5)] == ["first"] * 5
        # It is told once, and not at every handshake; by the names of the settings, and without a secret.
        (told,) = server.wait_for_lines(event="a new certificate is not used")
        assert "GRPC_TLS_CERT" in told["cause"]
        assert str(second.key_pem) not in server.log.read_text()
        files.write(files.key, second.key_pem)
        assert wait_for(lambda: name_shown(server.port) == "second", TIMEOUT_S)
        # A file that is gone, or is none, is passed over likewise.
        files.cert.unlink()
        assert name_shown(server.port) == "second"
        files.write(files.cert, b"")
        assert name_shown(server.port) == "second"
        assert len(server.wait_for_lines(event="a new certificate is not used")) == 3


def test_a_renewed_authority_lets_its_own_callers_in(environment: dict[str, str], files: Files) -> None:
    known, later = files.authority.vouch_for("caller"), files.others.vouch_for("caller")
    with served(files, environment | files.mutual, known) as server:
        fund(server, 1)
        files.write(files.client_ca, files.others.pem)

        def is_let_in(client: Pair) -> bool:
            with closing(connect(server.port, files.credentials(client))) as channel:
                return server.ask("GetBalance", channel=channel).code is grpc.StatusCode.OK

        assert wait_for(lambda: is_let_in(later), TIMEOUT_S)
        assert not is_let_in(known)
        assert server.ask("GetBalance").message.balance == 10_000  # who is connected goes on


def test_files_that_change_while_they_are_read_are_read_again(settings: Settings, files: Files) -> None:
    """Whatever is used fits together, however often somebody renews."""
    pairs = [files.authority.vouch_for(name) for name in ("second", "third")]
    fitting = {(pair.pem, pair.key_pem) for pair in pairs}
    files.use(pairs[0])
    paths = {"grpc_tls_cert": files.cert, "grpc_tls_key": files.key}
    renewed = Renewed(settings.model_copy(update=paths))
    is_over = threading.Event()

    def write() -> None:
        for pair in itertools.cycle(pairs):
            if is_over.is_set():
                return
            files.use(pair)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(1_500):
            renewed.renew()
            assert (renewed.current.certificate, renewed.current.key) in fitting
    finally:
        is_over.set()
        writer.join()
    files.use(pairs[1])
    renewed.renew()
    assert renewed.current.certificate == pairs[1].pem


def spoil_not_found(files: Files) -> None:
    files.cert.unlink()


def spoil_key_not_found(files: Files) -> None:
    files.key.unlink()


def spoil_not_pem(files: Files) -> None:
    files.cert.write_bytes(b"SECRET")


def spoil_key_not_pem(files: Files) -> None:
    files.key.write_bytes(b"SECRET")


def spoil_key_of_another(files: Files) -> None:
    files.key.write_bytes(files.authority.vouch_for("another").key_pem)


def spoil_encrypted(files: Files) -> None:
    files.key.write_bytes(files.authority.vouch_for("another").encrypted_key_pem)


def spoil_folder(files: Files) -> None:
    files.cert.unlink()
    files.cert.mkdir()


def spoil_client_ca(files: Files) -> None:
    files.client_ca.write_bytes(b"SECRET")


def spoil_empty_client_ca(files: Files) -> None:
    files.client_ca.write_bytes(b"")


WRONG: dict[Callable[[Files], None], str] = {
    spoil_not_found: "GRPC_TLS_CERT: ",
    spoil_key_not_found: "GRPC_TLS_KEY: ",
    spoil_not_pem: "GRPC_TLS_CERT: ",
    spoil_key_not_pem: "GRPC_TLS_KEY",
    spoil_key_of_another: "GRPC_TLS_KEY",
    spoil_encrypted: "GRPC_TLS_KEY",
    spoil_folder: "GRPC_TLS_CERT: ",
    spoil_client_ca: "GRPC_TLS_CLIENT_CA: ",
    spoil_empty_client_ca: "GRPC_TLS_CLIENT_CA: ",
}


@pytest.mark.parametrize("module", ["ops.grpc.process", "ops.grpc"])
@pytest.mark.parametrize("spoil", WRONG)
def test_a_wrong_file_ends_the_start_with_a_line_that_names_the_setting(
    environment: dict[str, str], files: Files, spoil: Callable[[Files], None], module: str
) -> None:
    spoil(files)
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG"}}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ended = run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=kept | environment | files.mutual | {"GRPC_PORT": str(port), "GRPC_PROCESSES": "1"},
        text=True,
    )
    said = ended.stdout + ended.stderr
    assert (ended.returncode, len(said.splitlines())) == (2, 1), said
    assert WRONG[spoil] in said
    assert "SECRET" not in said
