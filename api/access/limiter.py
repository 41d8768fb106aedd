"""flask-limiter, which holds the token bucket and its storage for a Flask application."""

from typing import cast

from flask import Flask
from flask_limiter import Limiter

from api.access.token_bucket import NAME, SCHEME, TokenBucket
from models.redis_line.line import RedisLine


def install(app: Flask, line: RedisLine) -> TokenBucket:
    """Give an application its limiter, with buckets at the other end of the line, and return its strategy.

    To evaluate limits by route, method and condition, as it would before and after each request, costs more than the
    round trip to Redis; here is one limit, whose token is taken when it is known whose (identity.py). To an application
    that has it already it adds no hooks.
    """
    limiter = Limiter(
        lambda: "",
        strategy=NAME,
        storage_uri=f"{SCHEME}://",
        storage_options={"line": line},  # type: ignore[dict-item]
    )
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
    return cast("TokenBucket", limiter.limiter)
