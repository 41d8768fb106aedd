"""URLs of servers: what is wrong with one comes out here, by name, and not when a driver first uses it.

No message shows more of a URL than the name of a parameter: a password may stand anywhere else.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn
from pydantic import AfterValidator, SecretStr

from config.addresses import MAX_PORT, is_port
from config.values import check_host

MAX_HOSTS = 16
MAX_CONNECT_TIMEOUT_S = 30
# Who writes needs a server that takes writes.
_SESSION_ATTRS = frozenset({"any", "read-write", "primary"})
_UNKNOWN = re.compile(r'invalid URI query parameter: "(\w+)"')
_POSTGRES_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# Which libpq reads when it has connected.
_NUMBERS = (
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
# A folder that no server has its socket in.
_NOWHERE = "/nonexistent"

# What redis-py takes, and the service does not decide itself as it does timeouts, retries and how answers are read.
_REDIS_PARAMETERS = frozenset({"db", "username", "password", "client_name"})
_REDIS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")
_TLS_PARAMETERS = frozenset({*_REDIS_FILES, "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers", "ssl_password"})
_YES_OR_NO = frozenset({"true", "false", "yes", "no", "1", "0"})


def check_database_url(url: SecretStr) -> SecretStr:
    """Make sure that it is a URL as libpq spells them, of servers that take writes.

    Raises:
        ValueError: it is none, or libpq would not take a part of it.
    """
    text = url.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL that begins with postgresql:// or postgres://")
    _check_characters(text)
    _check_said_once(text)
    try:
        parameters = parse_dsn(text)
    except psycopg2.ProgrammingError as error:
        if found := _UNKNOWN.search(str(error)):
            raise ValueError(f"libpq knows no parameter {found[1]}") from None
        raise ValueError("must be a URL like postgresql://user:password@host:port/database") from None
    _check_hosts(parameters)
    _check_parameters(parameters)
    return url


def check_redis_url(url: SecretStr) -> SecretStr:
    """Make sure that it is a URL as redis-py takes them, with no parameter that would change what the service rests on.

    Raises:
        ValueError: it is none.
    """
    text = url.get_secret_value()
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be a URL that begins with redis://, rediss:// or unix://")
    _check_characters(text)
    _check_said_once(text)
    try:
        parts = urlsplit(text)
        port, host, given = parts.port, parts.hostname, dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:  # what it says has a part of the URL in it
        raise ValueError(f"must be a URL whose port is a number from 1 to {MAX_PORT}") from None
    if port == 0:
        raise ValueError(f"must be a URL whose port is a number from 1 to {MAX_PORT}")
    if parts.fragment:
        raise ValueError("must have no #: in a password it is spelled %23")
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError("must be like unix:///path/of/the/socket?db=0")
    else:
        if host:
            check_host(host)
        if parts.path not in {"", "/"}:
            _check_redis_database(unquote(parts.path).removeprefix("/"))
    _check_redis_parameters(parts.scheme, given)
    return url


DatabaseUrl = Annotated[SecretStr, AfterValidator(check_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(check_redis_url)]


def _check_characters(text: str) -> None:
    if not text.isprintable() or " " in text:
        raise ValueError("must have no blanks: within a password they are spelled %20")


def _check_said_once(text: str) -> None:
    names = [name for name, _ in parse_qsl(text.partition("?")[2], keep_blank_values=True)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"names a parameter twice{f': {name}' if name.isidentifier() else ''}")


def _check_hosts(parameters: Mapping[str, str]) -> None:
    """See that each host is one, and has its port."""
    addresses = parameters.get("hostaddr", "").split(",")
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    several = max(len(hosts), len(addresses))
    if several > MAX_HOSTS:
        raise ValueError(f"must name at most {MAX_HOSTS} hosts")
    if several > 1:
        if {len(hosts), len(addresses)} - {1, several} or "" in hosts + addresses * (len(addresses) > 1):
            raise ValueError("must name each of its hosts, like host1:5432,host2:5432")
        if len(ports) not in {1, several}:
            raise ValueError("must name one port, or one for each host, like host1:5432,host2:5432")
    for host in filter(None, hosts):
        if not host.startswith(("/", "@")):
            check_host(host)
    for port in filter(None, ports):
        if not is_port(port):
            raise ValueError(f"must be a URL whose port is a number from 1 to {MAX_PORT}")


def _check_parameters(parameters: Mapping[str, str]) -> None:
    if parameters.get("target_session_attrs", "any") not in _SESSION_ATTRS:
        raise ValueError("target_session_attrs must be read-write, primary or any: the service writes")
    if parameters.get("load_balance_hosts", "disable") != "disable":
        raise ValueError("load_balance_hosts must be disable: the service wants the one host that takes writes")
    for name in _NUMBERS:
        if not _is_number(parameters.get(name, "0")):
            raise ValueError(f"{name} must be a number")
    if int(parameters.get("connect_timeout", "0")) > MAX_CONNECT_TIMEOUT_S:
        raise ValueError(f"connect_timeout must be at most {MAX_CONNECT_TIMEOUT_S} seconds")
    for name in _POSTGRES_FILES:
        if parameters.get(name, "system") != "system":
            _check_file(name, parameters[name])
    # libpq itself looks at all else, before it looks for the server.
    elsewhere = make_dsn(**{**parameters, "host": _NOWHERE, "hostaddr": "", "port": "1"})
    try:
        psycopg2.connect(elsewhere, async_=True).close()
    except psycopg2.Error as error:
        message = str(error).strip().partition("\n")[0]
        if _NOWHERE not in message:
            wrong = next((name for name in sorted(parameters, key=len, reverse=True) if name in message), None)
            raise ValueError(f"libpq does not take its {wrong}" if wrong else "libpq does not take it") from None


def _check_redis_database(text: str) -> None:
    if not _is_number(text):
        raise ValueError("must be a URL whose database is a number, like redis://host:6379/0")


def _check_redis_parameters(scheme: str, given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name in _TLS_PARAMETERS and scheme != "rediss":
            raise ValueError(f"{name} needs rediss://")
        if name not in _REDIS_PARAMETERS | _TLS_PARAMETERS:
            known = ", ".join(sorted(_REDIS_PARAMETERS | _TLS_PARAMETERS))
            raise ValueError(f"takes no parameter {name if name.isidentifier() else 'of that name'} (but {known})")
        if name == "db":
            _check_redis_database(value)
        if name == "ssl_cert_reqs" and value not in {"none", "optional", "required"}:
            raise ValueError("ssl_cert_reqs must be none, optional or required")
        if name == "ssl_check_hostname" and value.lower() not in _YES_OR_NO:
            raise ValueError("ssl_check_hostname must be true or false")
        if name in _REDIS_FILES:
            _check_file(name, value)


def _check_file(name: str, path: str) -> None:
    if not Path(path).exists():
        raise ValueError(f"{name} names a file that is not there")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
