"""Statements: what ``flask statement`` writes, sent while it is read."""

from flask import Blueprint, Response, request

from api.actions.finding import whose
from api.actions.statements import open_statement
from api.calls.problems import ApiError
from api.contract.statement_file import Days, Format
from api.contract.statements import StatementQuery
from api.contract.validation import read_query
from api.edge.edge import call_of
from api.running import services

blueprint = Blueprint("statements", __name__)

_TYPES = {Format.CSV: "text/csv", Format.JSON: "application/json"}


@blueprint.get("/api/statements/v1")
def statement() -> Response:
    """Send the entries of some days, oldest first, between the balances before and after."""
    call = call_of(request.environ)
    caller = services().identity.require_user_or_admin(call)
    query = read_query(request.environ, StatementQuery)
    user_id = whose(caller, query.user_id)
    if user_id is None:
        raise ApiError("bad_input", "query: user_id: administrators have to say whose")
    days, kind = Days(query.from_, query.to), Format(query.format)
    pieces = open_statement(services(), call, user_id, days, kind)
    name = f"statement-{user_id}-{days.first}-{days.last}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(pieces, mimetype=_TYPES[kind], headers=headers)
