"""Which other sites' pages may read what the API answers: by default none."""

import re

from flask import Flask
from flask_cors import CORS

from config import Settings

# What a client needs to see of an answer, beside its body.
EXPOSED = (
    "Location",
    "Retry-After",
    "Idempotency-Replayed",
    "RateLimit",
    "RateLimit-Policy",
    "X-Request-ID",
    "traceparent",
)
ALLOWED = ("Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID", "traceparent", "tracestate")
_PREFLIGHT_LIFETIME_S = 600


def install(app: Flask, settings: Settings) -> None:
    """Let the pages of CORS_ORIGINS call the API. They send their user's token; no browser adds anything by itself."""
    if not settings.cors_origins:
        return
    # Anchored patterns: Flask-CORS reads an origin with brackets ([::1]) as one, and matches only its beginning.
    origins = [re.compile(re.escape(origin) + r"\Z") for origin in settings.cors_origins]
    CORS(
        app,
        resources=[r"/api/.*", r"/openapi\.json$"],
        origins=origins,
        methods=["GET", "HEAD", "POST"],
        allow_headers=list(ALLOWED),
        expose_headers=list(EXPOSED),
        max_age=_PREFLIGHT_LIFETIME_S,
        supports_credentials=False,
        always_send=False,
        # Every error is a response of ours before Flask-CORS would see it.
        intercept_exceptions=False,
    )
