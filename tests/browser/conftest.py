"""A real Chromium before a real gunicorn: for what only a browser shows."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright
from sqlalchemy import Engine

from tests.api.calls import DEPOSIT
from tests.api.server import Gunicorn, gunicorn
from tests.conftest import ADMIN_PASSWORD

REQUIRED = "REQUIRE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Generous: on a busy machine a browser takes seconds to do anything.
TIMEOUT_MS = 30_000
expect.set_options(timeout=TIMEOUT_MS)


@dataclass
class Visit:
    """A page, with all that went wrong on it and all that it asked for."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: str) -> int:
        """Go there, and return the status."""
        response = self.page.goto(self.origin + path)
        assert response is not None
        return response.status

    def assert_in_order(self) -> None:
        """Nothing was complained of, and nobody else was asked for anything."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith((self.origin + "/", "data:"))] == []

    def _listen(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _note(self, request: Request) -> None:
        self.requests.append(request.url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium from this machine; module by module, since its event loop is in the way of others."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        reason = f"none of {', '.join(NAMES)} is on the PATH"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{reason}, and {REQUIRED}=1")
        pytest.skip(f"{reason} ({REQUIRED}=1 makes this a failure)")
    # Its sandbox cannot be had by root; the pages are our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, database_url: str, redis_url: str) -> Iterator[Gunicorn]:
    """One server for the whole module."""
    with gunicorn(
        tmp_path_factory.mktemp("gunicorn") / "api.log",
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        ADMIN_PASSWORD=ADMIN_PASSWORD,
        API_PROCESSES="1",
    ) as server:
        yield server


@pytest.fixture
def server(running: Gunicorn, engine: Engine, redis_client: redis.Redis) -> Gunicorn:
    """The server, with empty tables but for users 1 and 2, who have 10000 cents each."""
    del engine, redis_client
    for user in (1, 2):
        assert running.move(DEPOSIT, {"amount": 10_000}, user=user).status == 200
    return running


@pytest.fixture
def visitor(browser: Browser, server: Gunicorn) -> Iterator[Visit]:
    """Somebody without a password."""
    with browser.new_context() as context:
        yield _visit(context, server)


@pytest.fixture
def administrator(browser: Browser, server: Gunicorn) -> Iterator[Visit]:
    """Somebody who gives the administrator's password when asked for it."""
    with browser.new_context(http_credentials={"username": "admin", "password": ADMIN_PASSWORD}) as context:
        yield _visit(context, server)


def _visit(context: BrowserContext, server: Gunicorn) -> Visit:
    context.set_default_timeout(TIMEOUT_MS)
    visit = Visit(context.new_page(), f"http://127.0.0.1:{server.port}")
    visit._listen()
    return visit
