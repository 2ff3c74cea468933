"""What somebody does on a page stays while the page changes, in Chromium: of an operator whose CRs change all the time."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, Response, expect

from runner.dashboard import live
from tests.dashboard.conftest import CHROMIUM
from tests.dashboard.stage import KEY, Stage
from tests.dashboard.test_pages import ran

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
CR = "/cr/example.com/v1/Thing/a/one"
# Milliseconds; on slow machines much later than usual.
PATIENCE = 60_000


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAUSE", 0.0)


@pytest.fixture
def messages() -> Iterator[str]:
    return (f"message {number}" for number in itertools.count())


@asynccontextmanager
async def visiting(browser: Browser, stage: Stage, path: str) -> AsyncIterator[Page]:
    """A page that has its stream, and asks at no other time than when it is told to."""
    context = await browser.new_context(base_url=f"http://{stage.address}")
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    await page.add_init_script("window.setInterval = () => 0")
    await page.goto(f"/?key={KEY}")
    await page.goto(path)
    await page.wait_for_selector("html[data-connection=live]")
    yield page
    await context.close()


def is_of_the_page_itself(response: Response) -> bool:
    return "x-dashboard-live" in response.request.headers


async def change(stage: Stage, page: Page, message: str) -> None:
    """Change the CR, and let the page have its next version."""
    async with page.expect_response(is_of_the_page_itself) as asked:
        failing = {"type": "Failure", "status": "True", "reason": "Failed", "message": message}
        stage.add("one", status={"conditions": [failing]})
    await (await asked.value).finished()
    # What the page does with it, it has done then.
    await page.evaluate("new Promise((turn) => setTimeout(turn))")


async def shows(page: Page, text: str) -> None:
    await expect(page.locator("main")).to_contain_text(text, timeout=PATIENCE)


async def test_what_is_typed_into_the_filter_stays_until_it_is_asked_for(
    browser: Browser, local: Stage, messages: Iterator[str]
) -> None:
    stage = local
    stage.add("one")
    async with visiting(browser, stage, "/") as page:
        await page.focus("#filter-namespace")
        for text in ("a", "Tab", "w", "Tab", "o", "n", "e", "Tab"):
            await change(stage, page, next(messages))
            await page.keyboard.press(text)
        # With the focus on the button, the page is its next version.
        await change(stage, page, last := next(messages))
        await shows(page, last)
        assert await page.evaluate("document.activeElement.id") == "filter-go"
        await page.keyboard.down(" ")
        await change(stage, page, next(messages))
        await page.keyboard.up(" ")
        await page.wait_for_url("**/?*")
        assert page.url.endswith("/?kind=&namespace=a&state=waiting&text=one")
        # What was asked for is what the form begins with, and none of it is an entry.
        await change(stage, page, last := next(messages))
        await shows(page, last)
        await expect(page.locator("#filter-state")).to_have_value("waiting")


async def test_a_button_is_clicked_though_the_page_changes_between_press_and_release(
    browser: Browser, local: Stage, messages: Iterator[str]
) -> None:
    stage = local
    stage.add("one")
    async with visiting(browser, stage, "/") as page:
        await page.fill("#filter-text", "message")
        await change(stage, page, next(messages))
        await page.hover("#filter-go")
        # By which the field loses the focus, and the page may be its next version.
        await page.mouse.down()
        await change(stage, page, next(messages))
        await page.mouse.up()
        await page.wait_for_url("**/?*")
        assert page.url.endswith("text=message")


async def test_runs_that_are_chosen_stay_chosen(browser: Browser, local: Stage, messages: Iterator[str]) -> None:
    stage = local
    one = stage.add("one")
    idents = [character * 16 for character in "abcd"]
    for ident in idents[:3]:
        ran(stage, one, ident=ident)
    async with visiting(browser, stage, CR) as page:
        chosen = page.locator("input[type=radio]:checked")
        assert [await each.get_attribute("value") for each in await chosen.all()] == [idents[2], idents[1]]
        # The second run is what it was when this was chosen, though there is a newer one.
        await page.check(f"#one-{idents[0]}")
        ran(stage, one, ident=idents[3])
        await change(stage, page, next(messages))
        await page.wait_for_selector(f"#one-{idents[3]}")
        await expect(page.locator(f"#one-{idents[0]}")).to_be_checked()
        await expect(page.locator(f"#other-{idents[2]}")).to_be_checked()
        await page.click("#compare")
        await page.wait_for_url(f"**/compare?*one={idents[0]}*")
        assert f"other={idents[2]}" in page.url


async def test_the_place_on_the_page_stays(browser: Browser, local: Stage, messages: Iterator[str]) -> None:
    """Of who goes about it by the keyboard."""
    stage = local
    stage.add("one")
    async with visiting(browser, stage, "/") as page:
        await page.focus(".crs tbody a")
        await change(stage, page, last := next(messages))
        await shows(page, last)
        assert await page.evaluate("document.activeElement.getAttribute('href')") == CR
