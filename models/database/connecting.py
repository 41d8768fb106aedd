"""The way to one of several servers: each host of a URL, and each address of a name, has a bound of its own.

libpq goes on to the next host only when the one before has refused. One that is silent would use up the whole bound,
since libpq's connect_timeout does not hold where somebody else waits for its socket, as our wait callback does. So
libpq is given one address at a time.
"""

import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import parse_dsn
from sqlalchemy import URL, Engine, create_engine

# For each address, unless the URL says something else (``connect_timeout``).
CONNECT_TIMEOUT_S = 2.0
# PostgreSQL ends a session whose client's machine is gone without a goodbye after so many seconds without a sign of
# life, if something was sent to it, or if it was asked for one. By default an idle session would keep its place for two
# hours, and one that was just sending would keep its snapshot and its locks for a quarter of one.
GONE_AFTER_S = 15
# An idle one is asked when it has been silent for so long, and again.
ASKED_AFTER_S, ASKED_AGAIN_AFTER_S = 10, 5
_ENDS_WITH_ITS_CLIENT = (
    f"-c tcp_keepalives_idle={ASKED_AFTER_S}",
    f"-c tcp_keepalives_interval={ASKED_AGAIN_AFTER_S}",
    f"-c tcp_keepalives_count={GONE_AFTER_S // ASKED_AGAIN_AFTER_S}",
    f"-c tcp_user_timeout={GONE_AFTER_S * 1000}",
)
# What tells one address from another.
_PLACE = ("host", "port", "hostaddr")


def create_engine_of(url: str, *, override: Mapping[str, str] = MappingProxyType({}), **options: Any) -> Engine:
    """Make an engine of SQLAlchemy's on a URL as libpq spells them. Nothing is connected yet.

    Args:
        url: ``postgresql://…``, with SQLAlchemy's driver named or not.
        override: libpq's parameters that win over the URL's.
        options: SQLAlchemy's.
    """
    given = libpq_parameters(url)
    parameters = {**given, **override}
    route = _Route({**parameters, "options": session_options(parameters)})
    host, port = given.pop("host", None), given.pop("port", None)
    is_one = "," not in f"{host}{port}"
    # What SQLAlchemy knows of the URL is for people to read: it connects by the route.
    shown = URL.create(
        "postgresql+psycopg2",
        username=given.pop("user", None),
        password=given.pop("password", None),
        host=host if is_one else None,
        port=int(port) if port and is_one else None,
        database=given.pop("dbname", None),
        query={name: value for name, value in given.items() if name not in override},
    )
    return create_engine(shown, creator=route.connect, **options)


def libpq_parameters(url: str) -> dict[str, str]:
    """Take a URL apart into libpq's parameters, which are also what PostgreSQL's own programs are told.

    Args:
        url: as :func:`create_engine_of` takes it.
    """
    parameters: dict[str, str] = parse_dsn(f"postgresql://{url.partition('://')[2]}")
    return parameters


def session_options(parameters: Mapping[str, str]) -> str:
    """Return ``options`` by which PostgreSQL ends a session soon after its client's machine is gone.

    Args:
        parameters: libpq's. What their own ``options`` say of it wins.
    """
    return " ".join([*_ENDS_WITH_ITS_CLIENT, parameters.get("options", "")]).rstrip()


def connect_timeout_s(connection: psycopg2.extensions.connection) -> float:
    """Return how many seconds a connection may take that is just being made."""
    return float(connection.info.dsn_parameters.get("connect_timeout") or 0) or CONNECT_TIMEOUT_S


class _Route:
    """Where the servers of a URL are."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = dict(parameters)
        # Where the last connection led to. After a failover a host that is silent is to cost its bound once only.
        self._last: list[str | None] | None = None

    def connect(self) -> psycopg2.extensions.connection:
        """Connect to the first address that answers, and is what ``target_session_attrs`` wants.

        Raises:
            psycopg2.OperationalError: there is none; says why, of each.
        """
        addresses, refusals = self._find_addresses()
        for address in sorted(addresses, key=lambda each: _place_of(each) != self._last):
            try:
                connection: psycopg2.extensions.connection = psycopg2.connect(**address)
            except psycopg2.OperationalError as error:
                if len(addresses) == 1 and not refusals:
                    raise
                refusals.append(str(error).strip().replace("\n", " "))
            else:
                self._last = _place_of(address)
                return connection
        raise psycopg2.OperationalError("; ".join(refusals))

    def _find_addresses(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return what libpq is to be told of each address, and what is said of names that lead nowhere."""
        common = dict(self._parameters)
        columns = [common.pop(name, "").split(",") for name in _PLACE]
        several = max(map(len, columns))
        if several > 1:
            # Of several servers one takes writes.
            common.setdefault("target_session_attrs", "read-write")
        if common.get("connect_timeout", "0") == "0":
            common["connect_timeout"] = str(round(CONNECT_TIMEOUT_S))
        addresses, refusals = [], []
        for number in range(several):
            # Of each column there is one for all, or one for each.
            host, port, numeric = (column[number] if len(column) > 1 else column[0] for column in columns)
            here = common | {name: value for name, value in (("host", host), ("port", port)) if value}
            if numeric or not host or host.startswith(("/", "@")):
                addresses.append(here | ({"hostaddr": numeric} if numeric else {}))
                continue
            try:
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                refusals.append(f'could not translate host name "{host}" to address: {error.strerror}')
            else:
                addresses += [here | {"hostaddr": str(each)} for each in dict.fromkeys(each[4][0] for each in found)]
        return addresses, refusals


def _place_of(address: Mapping[str, Any]) -> list[str | None]:
    return [address.get(name) for name in _PLACE]
