"""rq-dashboard in a real browser: it works under its policy, and what a job holds is text."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from playwright.sync_api import Error, Route, expect
from rq import Queue
from rq.results import Result
from rq.serializers import JSONSerializer
from sqlalchemy import Engine

from config import Settings
from jobs.connections import make_cache
from jobs.retries import RetryPolicy
from jobs.rq.keys import QUEUE_NAME, RqKeys
from jobs.rq.worker import BatchWorker
from jobs.settler import Settler
from ops.local.processes import wait_for
from tests.api.server import Gunicorn
from tests.browser.conftest import Visit
from tests.jobs.backlog import accept, kill_off, members, row_of
from tests.jobs.conftest import drain
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("dashboard")]

HOSTILE = '<img src="data:," onerror="window.ran = true"><script>window.ran = true</script>\'"</script>'
BEGINS_WITH = '<img src="data:," onerror='
FAILED_PAGE = "/rq/0/view/jobs/transfers/failed/8/asc/1"
RAN = "() => window.ran === true"


@pytest.fixture
def hostile(server: Gunicorn, redis_client: redis.Redis) -> None:
    """Jobs, a queue and a worker that all try to be more than text."""
    del server
    queue = Queue(QUEUE_NAME, connection=redis_client, serializer=JSONSerializer)
    for job_id in ("bad", "good", "busy"):
        queue.enqueue("f", HOSTILE, job_id=job_id, meta={"m": HOSTILE})
    RqKeys(redis_client).bury("bad", generation=1, error=HOSTILE)
    good = Result("good", Result.Type.SUCCESSFUL, redis_client, return_value=HOSTILE, serializer=JSONSerializer)
    good.save(ttl=-1)  # type: ignore[no-untyped-call]
    redis_client.hset("rq:job:busy", "status", "started")
    redis_client.sadd("rq:queues", f"rq:queue:{HOSTILE}")
    redis_client.sadd("rq:workers", f"rq:worker:{HOSTILE}")
    worker: dict[Any, Any] = {
        "state": "busy",
        "queues": HOSTILE,
        "current_job": "busy",
        "version": HOSTILE,
        "python_version": HOSTILE,
    }
    redis_client.hset(f"rq:worker:{HOSTILE}", mapping=worker)


@pytest.fixture
def dead(server: Gunicorn, engine: Engine, redis_client: redis.Redis) -> list[int]:
    """Three dead letters, in PostgreSQL and in RQ."""
    del server
    ids = accept(engine, 3)
    kill_off(engine, ids)
    for each in ids:
        RqKeys(redis_client).bury(each, generation=row_of(engine, each).generation, error="told to")
    return ids


@pytest.fixture
def work(engine: Engine, redis_client: redis.Redis, settings: Settings) -> Callable[[], None]:
    """Let a worker run whatever waits."""
    settler = Settler(engine, RetryPolicy((60.0,)), make_cache(settings, engine))
    worker = BatchWorker(redis_client, settler, batch_size=10)
    worker.register_birth()

    def work() -> None:
        assert drain(worker)

    return work


def test_without_a_password_there_is_nothing(visitor: Visit) -> None:
    for path in ("/rq", "/rq/", "/rq/0/data/workers.json", "/rq/static/css/main.css"):
        # The browser asks for a password, and nobody is there to give it one.
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            visitor.open(path)
        assert visitor.page.request.get(visitor.origin + path).status == 401


@pytest.mark.usefixtures("dead")
def test_all_pages_work_under_their_policy(administrator: Visit) -> None:
    page = administrator.page
    assert administrator.open("/rq/") == 200
    expect(page.locator("table#queues tr[data-role=queue] td").first).to_have_text(QUEUE_NAME)
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator("table#jobs tbody")).to_have_text("No jobs.")
    page.locator("#select-registry").select_option("failed")
    expect(page.locator("table#jobs tr[data-role=job]")).to_have_count(3)
    page.locator("div.job_id a").first.click()
    expect(page.locator("#job-data")).to_contain_text("told to")
    page.get_by_role("link", name="Workers").click()
    expect(page.locator("table#workers tbody")).to_have_text("No workers.")
    page.get_by_role("link", name="Queues").click()
    expect(page.locator("table#queues tbody")).to_contain_text(QUEUE_NAME)
    administrator.assert_in_order()


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize(
    ("path", "where", "times"),
    [
        ("/rq/", "table#queues tbody", 1),  # a queue's name
        ("/rq/0/view/jobs", "table#jobs tbody", 2),  # two descriptions
        (FAILED_PAGE, "table#jobs tbody", 2),  # description, exception
        ("/rq/0/view/job/bad", "#job-data", 3),  # description, meta, exception
        ("/rq/0/view/job/good", "#job-data", 3),  # description, meta, result
        ("/rq/0/view/workers", "table#workers tbody", 3),  # name, call, queue
    ],
)
def test_what_redis_holds_is_text(administrator: Visit, path: str, where: str, times: int) -> None:
    assert administrator.open(path) == 200
    shown = administrator.page.locator(where)
    expect(shown).to_contain_text("onerror=")
    text = shown.inner_text().replace("\\", "")
    assert text.count("onerror=") == times, text
    assert administrator.page.locator(f"{where} img, {where} script").count() == 0
    assert not administrator.page.evaluate(RAN)
    administrator.assert_in_order()


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("policy", [True, False])
def test_a_stored_script_would_have_to_get_past_both_escaping_and_policy(
    administrator: Visit, escaped: bool, policy: bool
) -> None:
    """Each of the two is taken away on the way to the browser: only without both does the script run."""

    def tamper(route: Route) -> None:
        answer = route.fetch()
        body = answer.text() if escaped else answer.text().replace("_.escape(", "(")
        headers = {k: v for k, v in answer.headers.items() if policy or k != "content-security-policy"}
        route.fulfill(response=answer, body=body, headers=headers)

    page = administrator.page
    page.route("**/rq/0/view/job/bad", tamper)
    assert administrator.open("/rq/0/view/job/bad") == 200
    expect(page.locator("#job-data")).to_contain_text("Exception Info")
    if escaped:
        assert page.locator("#job-data img").count() == 0
    else:
        page.wait_for_function("() => [...document.querySelectorAll('#job-data img')].every((each) => each.complete)")
    if not escaped and not policy:
        page.wait_for_function(RAN)
    else:
        assert not page.evaluate(RAN)
    violations = [each for each in administrator.complaints if "Content Security Policy" in each]
    assert bool(violations) == (policy and not escaped)


@pytest.mark.usefixtures("server")
def test_a_queues_name_in_the_address_is_no_script(administrator: Visit, redis_client: redis.Redis) -> None:
    name = "';window.ran=true;'"
    redis_client.sadd("rq:queues", f"rq:queue:{name}")
    assert administrator.open(f"/rq/0/view/jobs/{name}/queued/8/asc/1") == 200
    expect(administrator.page.locator("table#jobs tbody")).to_have_text("No jobs.")
    assert not administrator.page.evaluate(RAN)


def test_dead_letters_are_requeued_by_click(
    administrator: Visit, dead: list[int], redis_client: redis.Redis, engine: Engine, work: Callable[[], None]
) -> None:
    page = administrator.page
    administrator.open(FAILED_PAGE)
    page.get_by_role("link", name="Requeue", exact=True).first.click()
    assert wait_for(lambda: len(members(redis_client, "rq:failed:transfers")) == 2, PATIENCE_S)
    expect(page.locator("table#jobs tr[data-role=job]")).to_have_count(2)
    work()
    assert row_of(engine, dead[0]).status == "posted"

    administrator.open(f"/rq/0/view/job/{dead[1]}")
    page.get_by_role("button", name="Requeue").click()
    assert wait_for(lambda: len(members(redis_client, "rq:failed:transfers")) == 1, PATIENCE_S)
    work()

    administrator.open(FAILED_PAGE)
    page.get_by_role("link", name="Requeue All").click()
    page.get_by_role("button", name="Yes").click()
    assert wait_for(lambda: not members(redis_client, "rq:failed:transfers"), PATIENCE_S)
    work()
    assert {row_of(engine, each).status for each in dead} == {"posted"}
    administrator.assert_in_order()
