"""The certificates of the gRPC face: read again when their files change, so that renewing them restarts nothing.

The order of writing does not matter: a pair that does not fit, such as a new certificate beside the old key, is passed
over until it does, and the last one that did is used on.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

import config
from config import ConfigurationError

_log = structlog.get_logger("grpc")


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files hold: our certificate with those that vouch for it, its key, who may vouch for callers."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def check(settings: config.Settings) -> None:
    """See that TLS can be spoken, if the settings ask for it.

    Raises:
        ConfigurationError: a file cannot be read or is not what its setting says.
    """
    if settings.grpc_tls_cert is not None:
        read(settings)


def read(settings: config.Settings) -> Pem:
    """Read the files, and see that a handshake is possible with what they hold.

    Raises:
        ConfigurationError: it is not; names the setting.
    """
    certificate = _read("GRPC_TLS_CERT", settings.grpc_tls_cert)
    key = _read("GRPC_TLS_KEY", settings.grpc_tls_key)
    client_ca = (
        None if settings.grpc_tls_client_ca is None else _read("GRPC_TLS_CLIENT_CA", settings.grpc_tls_client_ca)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(str(settings.grpc_tls_cert), str(settings.grpc_tls_key), _no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or "they cannot be used"
        raise ConfigurationError(f"GRPC_TLS_CERT: no pair with GRPC_TLS_KEY in PEM: {reason}") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ConfigurationError("GRPC_TLS_CLIENT_CA: holds no certificates in PEM") from None
    return Pem(certificate, key, client_ca)


class Renewed:
    """The pair that is used, as it is in the files now."""

    def __init__(self, settings: config.Settings) -> None:
        """Read it once.

        Raises:
            ConfigurationError: it cannot be used.
        """
        self._settings = settings
        self._stamps = self._look()
        self.current = read(settings)

    def renew(self) -> bool:
        """Whether there is another pair now. Raises nothing: one that cannot be used is told, and passed over."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            found = read(self._settings)
        except ConfigurationError as error:
            _log.error("a new certificate is not used", cause=str(error))
            return False
        # What was read and what was checked may be of two pairs, if somebody has renewed them again meanwhile.
        if self._look() != stamps or found == self.current:
            return False
        self.current = found
        _log.info("a new certificate is used from now on")
        return True

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        settings = self._settings
        files = (settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca)
        return tuple(None if file is None else _stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(name: str, file: Path | None) -> bytes:
    if file is None:
        raise ConfigurationError(f"{name}: is not set")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: cannot be read: {error.strerror}") from None


def _no_password() -> str:
    """Nobody is there to type one; without this, OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")
