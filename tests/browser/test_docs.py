"""The page to try the API on, in a real browser: it loads without help, and sends what it says it sends."""

import pytest
from playwright.sync_api import Locator, expect

from tests.api.calls import BALANCE, DEPOSIT
from tests.api.server import Gunicorn
from tests.browser.conftest import Visit

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("docs")]


def operation(visit: Visit, method: str, path: str) -> Locator:
    """Open one operation."""
    block = visit.page.locator(f".opblock-{method}").filter(has=visit.page.locator(f'[data-path="{path}"]'))
    block.locator(".opblock-summary").click()
    return block


def execute(block: Locator) -> str:
    """Send the request, and return what is shown of the answer once it is a 200."""
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody")
    expect(answer.locator("td.response-col_status")).to_contain_text("200")
    return answer.inner_text()


def test_it_loads_without_help_from_elsewhere(visitor: Visit) -> None:
    assert visitor.open("/docs") == 200
    expect(visitor.page.locator(f'[data-path="{BALANCE}"]')).to_be_visible()
    visitor.assert_in_order()


def test_a_user_tries_out_the_balance_and_a_deposit(visitor: Visit, server: Gunicorn) -> None:
    page = visitor.page
    visitor.open("/docs")
    page.get_by_role("button", name="Authorize", exact=True).first.click()
    dialog = page.locator(".dialog-ux")
    dialog.locator("input[type=text]").first.fill("1")
    dialog.get_by_role("button", name="Apply credentials").first.click()
    dialog.get_by_role("button", name="Close").first.click()

    assert '"balance": 10000' in execute(operation(visitor, "get", BALANCE))

    deposit = operation(visitor, "post", DEPOSIT)
    deposit.locator("textarea.body-param__text").fill('{"amount": 67}')
    assert '"balance": 10067' in execute(deposit)
    assert server.get(BALANCE).json == {"balance": 10_067}
    visitor.assert_in_order()
