"""A container's health check: ``python -m ops.compose.health api|grpc|worker|webhooks`` succeeds if it can work."""

import http.client
import importlib
import os
import socket
import sys

import redis
from rq import Worker

from ops.compose import entry, secret_files
from ops.local.turns import Turns

TIMEOUT_S = 4


def is_api_ready() -> bool:
    """Whether /readyz says so. Asked without urllib, which would heed a proxy in the environment."""
    return _is_ok("PORT", "/readyz")


def is_worker_at_work() -> bool:
    """Whether its loop goes round. Of a consumer it says so itself: Kafka believes in who hangs as long as he polls."""
    return _is_ok("METRICS_PORT", "/healthz") if os.environ.get("TRANSPORT") == "kafka" else is_known_to_rq()


def is_known_to_rq() -> bool:
    """Whether RQ knows a worker of this container: its entry expires unless the worker's loop renews it."""
    url = (secret_files.settings(secret_files.FOLDER) | os.environ)["REDIS_URL"]
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as connection:
        return any(worker.hostname == socket.gethostname() for worker in Worker.all(connection=connection))


def _is_ok(port: str, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[port]), timeout=TIMEOUT_S)
    connection.request("GET", path)
    return connection.getresponse().status == http.HTTPStatus.OK


def is_grpc_serving() -> bool:
    """Whether its health says so. With TLS, of which nothing is known here, the processes say it by their locks."""
    if os.environ["GRPC_PORT"] == "off":
        return True
    asking = importlib.import_module("api.grpc.asking")  # by name: the others do without its library
    answer = asking.ask("127.0.0.1", int(os.environ["GRPC_PORT"]), timeout_s=TIMEOUT_S)
    if answer is asking.Answer.ENCRYPTED:
        return Turns(entry.TURNS).count_serving() > 0
    return bool(answer is asking.Answer.SERVES)


CHECKS = {"api": is_api_ready, "grpc": is_grpc_serving, "worker": is_worker_at_work, "webhooks": is_known_to_rq}


def main(arguments: list[str]) -> int:
    """Check; the exit status."""
    (kind,) = arguments
    try:
        return 0 if CHECKS[kind]() else 1
    except (OSError, http.client.HTTPException, redis.RedisError) as error:
        print(f"{kind}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
