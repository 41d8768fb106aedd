"""What the processes of ``make run`` are told: what the user has set out, without what is not for them."""

from collections.abc import Mapping

# What begins so, in capitals or not, is not handed on: it is for our Python, for make and its children, for the owner
# alone, or for libraries, which would read it behind the back of our settings.
WITHHELD = (
    *("PYTHON", "MAKE", "MFLAGS", "OWNER_DATABASE_URL"),
    *("FLASK_", "GEVENT_", "GRPC_", "GUNICORN_", "PROMETHEUS_", "RQ_", "WEB_CONCURRENCY"),
)
# What only the API is told: who callers are, and who may do what.
API_ALONE = ("ADMIN_", "AUTH_MODE", "DEPOSIT_SCOPE", "JWT_")


def for_api(users: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, and over it what the stack says."""
    return {"DEMO_WALLETS": "1"} | _without(users, WITHHELD) | dict(ours)


def for_others(users: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The same for those whom no caller can reach, so that it does not matter whom they would believe."""
    return _without(for_api(users, ours), API_ALONE) | {"ALLOW_USER_ID_MODE": "1"}


def _without(environment: Mapping[str, str], beginnings: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.upper().startswith(beginnings)}
