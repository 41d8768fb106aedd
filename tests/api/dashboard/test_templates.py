"""rq-dashboard's templates: whatever a job holds becomes text, and every script carries the request's nonce."""

from importlib.resources import files

import pytest
from jinja2 import Environment

from api.dashboard.templates import DashboardLoader, compile_template, mend

TEMPLATES = files("rq_dashboard") / "templates" / "rq_dashboard"
NONCE = '<script nonce="{{ g.csp_nonce }}"'


def test_every_value_is_escaped_and_code_is_kept() -> None:
    assert compile_template("<b><%= d.name %></b><% if (d.x) { %>&<%- d.x %><% } %>").splitlines() == [
        "function (values) {",
        'var html = "";',
        "with (values || {}) {",
        r'html += "\u003cb\u003e";',
        "html += _.escape(d.name);",
        r'html += "\u003c/b\u003e";',
        "if (d.x) {",
        r'html += "\u0026";',
        "html += _.escape(d.x);",
        'html += "";',
        "}",
        'html += "";',
        "}",
        "return html;",
        "}",
    ]


def test_what_escaped_itself_is_escaped_once() -> None:
    assert "html += _.escape(d.description);" in compile_template("<%= $('<div/>').text(d.description).html() %>")


def test_scripts_get_the_nonce_and_templates_a_function() -> None:
    assert mend('<script src="a"></script><script>1</script>') == f'{NONCE} src="a"></script>{NONCE}>1</script>'
    mended = mend('<script name="row" type="text/template"><%= a %></script>')
    assert mended.startswith(f'<script name="row" type="text/template"><%= a %></script>\n{NONCE}>')
    assert 'compiledTemplates["\\u003c%= a %\\u003e"] = function (values) {' in mended


def test_a_value_of_the_servers_never_becomes_code() -> None:
    with pytest.raises(ValueError, match="would become code"):
        mend('<script name="row" type="text/template">{{ queue.name }}</script>')


def test_no_other_templates_are_touched() -> None:
    environment = Environment(loader=DashboardLoader(), autoescape=True)
    for name in ("index.html", "rq_dashboard_other/index.html"):
        with pytest.raises(LookupError):
            environment.get_template(name)


@pytest.mark.parametrize("name", ["base.html", "queues.html", "jobs.html", "job.html", "workers.html", "navbar.html"])
def test_the_pinned_templates_are_those_that_were_read(name: str) -> None:
    """Nothing in them writes a value where neither Jinja nor the compiled functions would escape it."""
    source = (TEMPLATES / name).read_text()
    assert "|safe" not in source
    assert " on" not in {part[:3] for part in source.split('"') if part.endswith("=")}
    mended = mend(source)
    assert mended.count("<script ") == mended.count(NONCE) + mended.count('type="text/template"')
    assert "filename='favicon.ico'" not in mended


def test_the_pinned_scripts_write_no_value_unescaped() -> None:
    for script in (TEMPLATES / "scripts").iterdir():
        mended = mend(script.read_text())
        values = [part.partition("}}")[0].strip() for part in mended.split("{{")[1:]]
        assert [value for value in values if "|tojson" not in value] == []
