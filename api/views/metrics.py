"""Metrics in Prometheus's text format: those of all processes that share this one's folder, and of what is behind them.

Open to whoever reaches the API, as its probes are: no id, no amount and no secret is in them.
"""

from flask import Blueprint, Response, request

from api.contract.validation import refuse_query
from api.running import services
from observe import metrics_files

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def scrape() -> Response:
    """Answer 200 within a bounded time, whatever is down."""
    refuse_query(request.environ)
    return Response(metrics_files.exposition(services().readings), content_type=metrics_files.CONTENT_TYPE)
