"""grpcio's server, with bounds on whatever a caller can make it hold."""

import time
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

import config
from api.actions.watching import SEATS, Watching
from api.edge.proxies import Proxies
from api.grpc.patience import Patience
from api.grpc.servicer import WalletServicer
from api.services import Services
from config.addresses import address_of
from ops.grpc import health, reflection
from ops.grpc.gate import POOL, Bound, Gate
from ops.grpc.hands import Hands
from ops.grpc.health import Health
from ops.grpc.reflection import Reflection
from ops.grpc.tls import Pem, Renewed
from wallet.v1 import wallet_pb2, wallet_pb2_grpc

# Calls that come together are done together, by one thread: so few are enough, and more would only get in their way.
# They become more while all of them wait, for wallets that somebody holds or for a database that is slow.
THREADS, MOST_THREADS, TOGETHER = 6, 32, 16
# For orders that come at nearly the same time.
GATHER_S = 0.0005
# What is read comes out of the cache in a moment.
READING, READ_TOGETHER = 2, 16
# For whoever asks for the contract, how the service is, or has himself told that: the last as long as it lasts.
REFLECTING, PROBING, TOLD, REFUSING = 4, 2, 64, 2
# How many may wait for one of these threads; more are refused.
WAITING = 8
# How long somebody may take to read the contract.
REFLECTION_S = 30.0
# When all is answered, how long a process that ends waits for its callers to hang up. By itself grpcio takes 20 s.
GOODBYE_S = 1.0
# What is taken back at once when a process is to end: who has been silent for so long has said nothing yet.
SILENT_S = 0.25
# Beyond it grpcio itself refuses. Between this and MAX_BODY_BYTES the refusal has a code of the contract.
MOST_MESSAGE_BYTES = 262_144
# A token, a key and a trace, several times over.
MOST_METADATA_BYTES = 16_384
MOST_STREAMS = 256
# Each costs 13 KB, and a descriptor: without those there would be no way to PostgreSQL either.
MOST_CONNECTIONS = 1_000
# Who connects says what HTTP/2 begins with, and TLS before that, within these; who is connected calls now and then.
GREETING_S, IDLE_S = 10, 300
# A caller who has gone without a word is found out within these.
PING_EVERY_S, PONG_WITHIN_S = 60, 20
# A connection belongs to one process for as long as it lasts, so it does not last: callers spread anew. What is under
# way on it then may take as long as any watch.
CONNECTION_S, LAST_CALLS_S = 900, 660
_TICK_S = 0.05
_SERVICE = wallet_pb2.DESCRIPTOR.services_by_name["WalletService"].full_name


class Server:
    """One process's. Making it listens to nothing."""

    def __init__(self, settings: config.Settings, services: Services) -> None:
        self._settings = settings
        self._watching = Watching(services.history)
        self._hands = Hands(THREADS, most=MOST_THREADS, together=TOGETHER, gather_s=GATHER_S)
        self._reading = Hands(READING, most=MOST_THREADS, together=READ_TOGETHER, name="read")
        self._refusing = Hands(REFUSING, name="refuse")
        self._watchers = Hands(SEATS + REFUSING, name="watch")
        self._reflecting = Hands(REFLECTING, name="reflect")
        self._probing, self._told = Hands(PROBING, name="health"), Hands(TOLD, name="told")
        self._health = Health(_SERVICE)
        self._questions = Patience(REFLECTION_S, crowd=REFLECTING - 1)
        servicer = WalletServicer(services, Proxies(settings.trusted_proxies), self._watching)
        bounds = [
            Bound([self._hands, self._reading], settings.api_queue),
            Bound([self._watchers], 2 * SEATS, "watching"),
            Bound([self._reflecting], REFLECTING + WAITING),
            Bound([self._probing], PROBING + WAITING),
            Bound([self._told], TOLD),
        ]
        self._server = grpc.server(
            self._hands,
            interceptors=[Gate(self._hands, self._refusing, bounds=bounds, face=servicer)],
            options=_options(settings),
            # Those that are let in, and as many that can be refused with a code of the contract.
            maximum_concurrent_rpcs=sum(bound.most for bound in bounds) + settings.api_queue,
        )
        self._serve(servicer)

    def _serve(self, servicer: WalletServicer) -> None:
        """Have everything answered, what is not the busiest by threads of its own."""
        for method, pool in (
            (WalletServicer.GetBalance, self._reading),
            (WalletServicer.ListTransactions, self._reading),
            (WalletServicer.WatchJob, self._watchers),
            (Health.Check, self._probing),
            (Health.Watch, self._told),
            (Reflection.ServerReflectionInfo, self._reflecting),
        ):
            setattr(method, POOL, pool)
        wallet_pb2_grpc.add_WalletServiceServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (_SERVICE, health.SERVICE, reflection.SERVICE)
        # (Its stub has no types.)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            Reflection(names, self._questions), self._server
        )

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            RuntimeError: it cannot listen.
            ConfigurationError: the certificate cannot be used.
        """
        settings = self._settings
        address = address_of(settings.host, settings.grpc_port or 0)
        if settings.grpc_tls_cert is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, _credentials(settings))
        self._server.start()

    def stop(self) -> None:
        """Accept nothing more, and let what is in hand end, within GRACEFUL_TIMEOUT_S. Watches end at once."""
        self._health.leave()
        self._watching.close(within_s=0.0)
        stopped = self._server.stop(self._settings.graceful_timeout_s)
        pools = (
            self._hands,
            self._reading,
            self._watchers,
            self._refusing,
            self._reflecting,
            self._probing,
            self._told,
        )
        answered_at = time.monotonic()
        while not stopped.wait(_TICK_S):
            # Whoever has asked nothing yet, or reads the contract, is not waited for.
            self._questions.cancel(0.0)
            for pool in pools:
                pool.cancel_silent(SILENT_S)
            if any(pool.in_hand for pool in pools):
                answered_at = time.monotonic()
            elif time.monotonic() - answered_at > GOODBYE_S:
                # Everybody is answered. Who does not hang up by now is hung up on.
                self._server.stop(None)


def _options(settings: config.Settings) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", max(MOST_MESSAGE_BYTES, settings.max_body_bytes)),
        ("grpc.max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", GREETING_S * 1000),
        ("grpc.http2.settings_timeout", GREETING_S * 1000),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        ("grpc.keepalive_time_ms", PING_EVERY_S * 1000),
        ("grpc.keepalive_timeout_ms", PONG_WITHIN_S * 1000),
        ("grpc.max_connection_age_ms", CONNECTION_S * 1000),
        ("grpc.max_connection_age_grace_ms", LAST_CALLS_S * 1000),
    )


def _credentials(settings: config.Settings) -> grpc.ServerCredentials:
    files = Renewed(settings)

    def spell(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)

    def renew() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake; None: as before."""
        return spell(files.current) if files.renew() else None

    wants_clients = settings.grpc_tls_client_ca is not None
    # (Its stub knows nothing of None.)
    return grpc.dynamic_ssl_server_credentials(spell(files.current), renew, wants_clients)  # type: ignore[arg-type]
