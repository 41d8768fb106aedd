"""What grpcio logs, but for what callers alone do wrong."""

import logging

# By its logger, how grpcio begins a line, an error with a traceback, on bytes of a caller's that it cannot read. The
# first has those bytes in it, and a token or a key may be among them. The call itself has a line of its own.
_CALLERS_FAULTS = {"grpc._cython.cygrpc": "Invalid encoding on", "grpc._common": "Exception deserializing"}


def tell_only_ours() -> None:
    """Leave out of the log what anybody could fill it with."""
    for name, beginning in _CALLERS_FAULTS.items():
        logging.getLogger(name).addFilter(_is_not(beginning))


def _is_not(beginning: str) -> "logging._FilterType":
    return lambda record: not str(record.msg).startswith(beginning)
