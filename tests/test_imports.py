"""What a process does not import it does not hold: each kind of process is without what only others need."""

import subprocess
import sys

import pytest

from tests.project import ROOT

SETTINGS = {"DATABASE_URL": "postgresql://nowhere/wallet", "REDIS_URL": "redis://nowhere"}
# Migrating; rq-dashboard and what it stands on; what commands need; in user-id mode, what reads tokens.
OF_OTHERS = ["alembic", "mako", "rq_dashboard", "arrow", "api.commands.every", "jwt", "sqlalchemy.orm"]
CASES = {
    "API": ("wsgi", {}, [*OF_OTHERS, "rq", "jobs.settler", "confluent_kafka"]),
    "API over Kafka": (
        "wsgi",
        {"TRANSPORT": "kafka", "KAFKA_BROKERS": "nowhere:9092"},
        [*OF_OTHERS, "rq", "jobs.rq", "jobs.settler"],
    ),
    "API with tokens": ("wsgi", {"AUTH_MODE": "jwt", "JWT_SECRET": "s" * 32}, ["alembic", "rq_dashboard", "rq"]),
    "make run": ("ops.local.stack", {}, ["confluent_kafka"]),
    "worker": (
        "jobs.work",
        {},
        ["confluent_kafka", *OF_OTHERS, "api", "flask", "werkzeug", "jinja2", "limits", "gunicorn"],
    ),
    "who sends webhooks": (
        "jobs.webhook_work",
        {},
        ["confluent_kafka", *OF_OTHERS, "api", "flask", "werkzeug", "jinja2", "gunicorn", "jobs.settler"],
    ),
    "worker over Kafka": (
        "jobs.work",
        {"TRANSPORT": "kafka", "KAFKA_BROKERS": "nowhere:9092"},
        [*OF_OTHERS, "api", "rq", "jobs.rq"],
    ),
}


@pytest.mark.parametrize(("entry", "settings", "unwanted"), CASES.values(), ids=CASES.keys())
def test_a_process_imports_what_it_needs(entry: str, settings: dict[str, str], unwanted: list[str]) -> None:
    script = f"import sys, {entry}; print(*sys.modules)"
    told = subprocess.run(  # not forked from a process that has it all
        [sys.executable, "-c", script], cwd=ROOT, env=SETTINGS | settings, check=True, capture_output=True, text=True
    )
    imported = set(told.stdout.split())
    assert entry in imported
    assert imported & set(unwanted) == set()
