"""Long answers are compressed for those who take them so.

Flask-Compress does it, but is only asked where there is something to gain: it costs every request something, and tells
every cache that the answer varies. It leaves alone what is no success, and so all problems: they are short, and the
only answers that repeat what was asked, which compression would make guessable (BREACH).
"""

import re

from flask import Flask, Response, request
from flask_compress import Compress

# A balance only grows by compression; a page of the history becomes a sixth.
MIN_BYTES = 1_000
_TYPES = frozenset({"application/json", "text/plain", "text/css", "text/javascript"})
# Which Flask-Compress takes for the least wish, and it is a refusal. Nobody has to be given any.
_REFUSAL = re.compile(r";\s*q=0(\.0*)?\s*(,|$)")


def install(app: Flask) -> None:
    """Compress the application's long answers."""
    app.config.update(
        COMPRESS_REGISTER=False,
        COMPRESS_MIMETYPES=sorted(_TYPES),
        COMPRESS_MIN_SIZE=MIN_BYTES,
        # Both at levels that take about 0.1 ms for a page of the history.
        COMPRESS_ALGORITHM=["zstd", "gzip"],
        COMPRESS_LEVEL=3,
        COMPRESS_ZSTD_LEVEL=3,
        # What is produced bit by bit is also wanted bit by bit, and a range of a file is a range of that file.
        COMPRESS_STREAMS=False,
    )
    compress = Compress()
    compress.init_app(app)

    def after_request(response: Response) -> Response:
        length = response.content_length
        if length is None or length < MIN_BYTES or response.mimetype not in _TYPES:
            return response
        if _REFUSAL.search(request.headers.get("Accept-Encoding", "")):
            response.vary.add("Accept-Encoding")
            return response
        return compress.after_request(response)

    app.after_request(after_request)
