"""rq-dashboard's templates, mended while they are loaded.

As they come, they write whatever is in a job into the page as HTML, and one script writes the queue's name into itself
unescaped. They also need scripts without a nonce and the compiler of underscore.js, which a strict
Content-Security-Policy refuses. Here each script gets the request's nonce, and each template of underscore.js becomes a
function in which every value is escaped. rq-dashboard is pinned exactly, and a real browser tests what comes of it.
"""

import json
import re
from collections.abc import Callable
from typing import TypeAlias

from jinja2 import BaseLoader, Environment, PackageLoader, TemplateNotFound

_Source: TypeAlias = tuple[str, str | None, Callable[[], bool] | None]

PACKAGE = "rq_dashboard"
_NONCE = 'nonce="{{ g.csp_nonce }}"'
# <script name="…" type="text/template">: what underscore.js would compile in the browser.
_TEMPLATE = re.compile(r'(<script name="[^"]+" type="text/template">)(.*?)(</script>)', re.DOTALL)
# Code of Jinja's in one of them: a button that is always there.
_JINJA = re.compile(r"{% (?:if enable_delete|endif) %}")
_SCRIPT = re.compile(r"<script(?! name=)(?=[ >])")
# <%= value %>, <%- value %> or <% code %>
_PART = re.compile(r"<%([-=]?)(.*?)%>", re.DOTALL)
# An escaping of their own, which would now be one too many.
_ESCAPED = re.compile(r"\$\('<div/>'\)\.text\((.*?)\)\.html\(\)")
_COMPILED = "compiledTemplates"


class DashboardLoader(BaseLoader):
    """Loads rq-dashboard's templates."""

    def __init__(self) -> None:
        self._loader = PackageLoader(PACKAGE)

    def get_source(self, environment: Environment, template: str) -> _Source:
        """Return a template's source, mended."""
        if not template.startswith(f"{PACKAGE}/"):
            raise TemplateNotFound(template)
        source, path, is_current = self._loader.get_source(environment, template)
        return mend(source), path, is_current


def mend(source: str) -> str:
    """Mend one template."""
    source = source.replace("url_for('static', filename='favicon.ico')", "url_for('rq_dashboard.favicon')")
    # Not escaped by Jinja, since a script is no HTML; with it a queue's name could end the string it stands in.
    source = source.replace("'{{ queue.name }}'", "{{ queue.name|tojson }}")
    # The scripts of the pages come after this one.
    source = source.replace(
        "var AUTOREFRESH_FLAG = 1;",
        f"var AUTOREFRESH_FLAG = 1;\n_.template = function (text) {{ return {_COMPILED}[text]; }};",
    )
    source = _SCRIPT.sub(f"<script {_NONCE}", source)
    return _TEMPLATE.sub(lambda found: _compiled(found[1], found[2], found[3]), source)


def compile_template(text: str) -> str:
    """Return a template of underscore.js as a JavaScript function of its values, each of which it escapes."""
    code, end = [], 0
    for part in _PART.finditer(text):
        code.append(f"html += {_literal(text[end : part.start()])};")
        inside = _ESCAPED.sub(r"\1", part[2].strip())
        code.append(f"html += _.escape({inside});" if part[1] else inside)
        end = part.end()
    code.append(f"html += {_literal(text[end:])};")
    return "\n".join(
        ["function (values) {", 'var html = "";', "with (values || {}) {", *code, "}", "return html;", "}"]
    )


def _compiled(opening: str, text: str, closing: str) -> str:
    """Keep a template for those who ask for its text, and set its function beside it."""
    text = _JINJA.sub("", text)
    if "{{" in text or "{%" in text:
        raise ValueError("a value of Jinja's in a template of underscore.js would become code")
    function = compile_template(text)
    return (
        f"{opening}{text}{closing}\n<script {_NONCE}>var {_COMPILED} = window.{_COMPILED} || {{}};\n"
        f"{_COMPILED}[{_literal(text)}] = {function};</script>"
    )


def _literal(text: str) -> str:
    """Write a string as JavaScript that can stand in HTML."""
    return json.dumps(text).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
