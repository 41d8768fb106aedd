"""The yardstick of the API: a bare Flask route that answers what a balance looks like, and does nothing for it."""

from flask import Flask, Response

app = Flask("bare", static_folder=None)


@app.get("/")
def bare() -> Response:
    """Answer."""
    return Response(b'{"balance":10000}', mimetype="application/json")
