"""Marking an answer that was given before."""

from flask import Response


def marked(response: Response, *, replayed: bool) -> Response:
    """Say that this is the first answer to its Idempotency-Key again, if it is."""
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response
