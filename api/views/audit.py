"""What audits of the books have found, for administrators."""

from flask import Blueprint, request

from api.access.administrators import require_admin
from api.contract.audit import AuditOut
from api.contract.validation import answers, refuse_query
from api.running import services
from models.audit import record

blueprint = Blueprint("audit", __name__)


@blueprint.get("/api/audit/v1")
@answers
def audit() -> AuditOut:
    """Return what the last audit of the books found, and how far the one under way is."""
    require_admin()
    refuse_query(request.environ)
    engine = services().engine
    return AuditOut.of_both(record.find_last(engine), record.find_under_way(engine))
