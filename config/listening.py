"""The settings of where the service listens, which its own processes read, and those that start them."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from config.reading import Environment
from config.values import Host, read_port_or_off

_Port = Annotated[int, Field(ge=1, le=65535)]


def _next_to(others: dict[str, Any]) -> int:
    port: int = others["port"]
    return port + 1


class Listening(Environment):
    """An address, and a port for each face."""

    host: Host = "127.0.0.1"
    port: _Port = 8080
    # None: there is no gRPC.
    grpc_port: Annotated[_Port | None, BeforeValidator(read_port_or_off)] = Field(
        default_factory=_next_to, validate_default=True
    )
    # They share the port: each connection belongs to one of them.
    grpc_processes: int = Field(default=2, ge=1, le=64)
    # PEM files: the certificate with those that vouch for it, its key, and who may vouch for callers' own.
    grpc_tls_cert: Path | None = None
    grpc_tls_key: Path | None = None
    grpc_tls_client_ca: Path | None = None

    @model_validator(mode="after")
    def _each_has_its_port(self) -> Self:
        if self.grpc_port == self.port:
            raise ValueError("GRPC_PORT and PORT must differ")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.grpc_tls_cert is None) != (self.grpc_tls_key is None):
            raise ValueError("GRPC_TLS_CERT and GRPC_TLS_KEY go together: set both, or none of them")
        if self.grpc_tls_client_ca and not self.grpc_tls_cert:
            raise ValueError("GRPC_TLS_CLIENT_CA needs GRPC_TLS_CERT and GRPC_TLS_KEY")
        return self
