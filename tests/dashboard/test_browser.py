"""The dashboard of an operator at work, in Chromium.

ROLERUNNER_PICTURES=1 writes the pictures of docs/dashboard.md again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Error, Page, Response, Route, expect

from bench.driver import Cluster, Operator, condition, crd, is_done, until
from devkit.devcluster import Cluster as Devcluster
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.behaviour.test_dashboard import page_of, user
from tests.conftest import THING, Project, lines, thing
from tests.dashboard.conftest import CHROMIUM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
PICTURES = Path(__file__).parents[2] / "docs" / "images" if os.environ.get("ROLERUNNER_PICTURES") else None
KEY = "0123456789abcdef"
MEMCACHED = GroupVersionKind("caches.example.com", "v1alpha1", "Memcached")
BACKUP = GroupVersionKind("caches.example.com", "v1alpha1", "Backup")
DEPLOYMENT = GroupVersionKind("apps", "v1", "Deployment")
# Milliseconds; on slow machines much later than usual.
PATIENCE = 60_000
# 1280 wide, as the pictures are.
SIZE: Any = {"width": 1280, "height": 900}
# Where the bars of the tasks begin.
BARS = """() => [...document.querySelectorAll(".task rect.bar")].map((bar) => bar.getBoundingClientRect().x)"""
# What reaches over the window's edge and does not scroll.
WIDER = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("main *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth && !each.closest(".wide"))
    .map((each) => each.outerHTML.slice(0, 200))"""
# It is paused: its controller leaves it as it is, and what the CR is reconciled for is a test's doing alone.
DEPLOYS = """
- name: The Deployment has as many pods as the CR asks for
  diff: true
  kubernetes.core.k8s:
    definition:
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      spec:
        replicas: "{{ size }}"
        paused: true
        selector: {matchLabels: {app: "{{ ansible_operator_meta.name }}"}}
        template:
          metadata: {labels: {app: "{{ ansible_operator_meta.name }}"}}
          spec: {containers: [{name: memcached, image: "memcached:1.6-alpine"}]}

- name: Each pod has its settings
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}-{{ item }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {memory: "64", threads: "4"}
  loop: [cache, sessions]

- name: Somebody is told
  ansible.builtin.debug:
    msg: "{{ note | default('<script>document.title = 1</script>') }}"
"""
FAILS = """
- name: The volume is there
  ansible.builtin.assert: {that: true}

- name: The files are copied
  ansible.builtin.command: sh -c 'echo "copied {{ item }}"; test {{ item }} != sessions.db'
  loop: [users.db, sessions.db]
"""


@pytest.fixture
async def cluster(devcluster: Devcluster) -> AsyncIterator[Cluster]:
    async with Cluster.connected(devcluster.kubeconfig) as made:
        await made.install(crd(MEMCACHED))
        await made.install(crd(BACKUP))
        yield made


@pytest.fixture
async def operator(project: Project, cluster: Cluster) -> Operator:
    return await started(project)


async def started(project: Project, deploys: str = DEPLOYS, **environ: str) -> Operator:
    """An operator of two kinds, of which one fails."""
    project.role(deploys, name="memcached")
    project.role(FAILS, name="backup")
    project.watch(MEMCACHED, role="memcached")
    project.watch(BACKUP, role="backup")
    return await project.start("--dashboard-bind-address=127.0.0.1:0", ROLERUNNER_DASHBOARD_KEY=KEY, **environ)


def url(operator: Operator) -> str:
    (record,) = lines(operator, "Serving the dashboard")
    return f"http://{record['address']}"


def path(name: str, namespace: str, gvk: GroupVersionKind = MEMCACHED) -> str:
    return f"/cr/{gvk.group}/{gvk.version}/{gvk.kind}/{namespace}/{name}"


@contextlib.asynccontextmanager
async def visiting(browser: Browser, operator: Operator, **options: Any) -> AsyncIterator[Page]:
    """A page that is logged in. In the end nothing was complained about, and no other host was asked for anything."""
    context: BrowserContext = await browser.new_context(base_url=url(operator), viewport=SIZE, **options)
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    complaints: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    await page.goto(f"/?key={KEY}")
    yield page
    assert not complaints
    assert hosts == {urlsplit(url(operator)).netloc}
    await context.close()


async def sees(page: Page, selector: str, text: str | re.Pattern[str]) -> None:
    await expect(page.locator(selector).first).to_contain_text(text, timeout=PATIENCE)


def last(cause: str) -> str:
    """The row of the reconcile of this cause. Which row that is depends on what else moved the CR meanwhile."""
    return f"section:has(#last) tbody tr:has-text('{cause}')"


async def at_rest(page: Page, cause: str) -> None:
    """Wait on a CR's page until the reconcile of this cause is over, and none follows: what comes then is a new cause."""
    await sees(page, last(cause), cause)
    await sees(page, "#next-run", "period of")


async def picture(page: Page, name: str) -> None:
    if PICTURES:
        PICTURES.mkdir(exist_ok=True)
        height = min(await page.evaluate("document.documentElement.scrollHeight"), 1200)
        await page.set_viewport_size({**SIZE, "height": height})
        await page.evaluate("scrollTo(0, 0)")
        await page.screenshot(path=PICTURES / f"dashboard-{name}.png", animations="disabled")
        await page.set_viewport_size(SIZE)


async def settled(cluster: Cluster, gvk: GroupVersionKind, key: ObjectKey, kind: str) -> None:
    """Wait until a run of the CR has had its result."""

    async def has_it() -> bool:
        return condition(await cluster.get(gvk, key), kind).get("status") == "True"

    await until(has_it, f"{key} is {kind}")


async def resized(cluster: Cluster, key: ObjectKey) -> None:
    """Change a Memcached, and wait until it has run for that."""
    await cluster.patch(MEMCACHED, key, {"spec": {"size": 3}})

    async def has_run() -> bool:
        return is_done(await cluster.get(MEMCACHED, key) or {})

    await until(has_run, "it has run for the change")


async def test_what_happens_is_seen_as_it_happens(
    browser: Browser, operator: Operator, cluster: Cluster, project: Project
) -> None:
    namespace = project.namespace
    sample = ObjectKey(namespace, "sample")
    async with visiting(browser, operator) as page:
        await sees(page, ".empty", "No custom resources yet")
        await sees(page, "html[data-connection=live] .connection", "")
        # The page is not loaded again by anybody.
        await page.evaluate("document.body.dataset.same = 'yes'")
        await cluster.create(thing("sample", MEMCACHED, size=2), namespace)
        await sees(page, ".crs tbody", "sample")
        await sees(page, ".crs tbody .state", "ok")
        await sees(page, ".crs tbody", "period of")
        assert await page.evaluate("document.body.dataset.same") == "yes"

        await page.click(".crs >> text=sample")
        await sees(page, "h1", "Memcached sample")
        await sees(page, "section:has(#dependents) tbody", "Deployment")
        await sees(page, "section:has(#dependents) tbody", "sample-cache")
        await cluster.patch(MEMCACHED, sample, {"spec": {"size": 3}})
        await at_rest(page, "spec changed: size")
        await sees(page, last("spec changed: size"), "generation 2")
        await cluster.patch(DEPLOYMENT, sample, {"spec": {"replicas": 7}})
        edited = f"Deployment {namespace}/sample changed: spec.replicas"
        await sees(page, f"{last(edited)} .state", "succeeded")

        await page.click(f"{last(edited)} a")
        await sees(page, "#cause", edited)
        await sees(page, "h1 .state", "succeeded")
        await page.click("#task-1 > summary")
        await sees(page, "#task-1 .diff .added:has-text('\"replicas\": 3')", "+")
        await sees(page, "#task-1 .diff .removed:has-text('\"replicas\": 7')", "-")
        await page.click("#task-2 > summary")
        await sees(page, "#task-2 .items", "sessions")
        await page.click("#task-3 > summary")
        await sees(page, "#task-3 pre", "<script>document.title = 1</script>")
        await sees(page, "section:has(#requests) tbody", f"/apis/apps/v1/namespaces/{namespace}/deployments/sample")
        await page.click("text=Compare with the run before")
        await sees(page, "h1", "Two runs side by side")
        await sees(page, ".compare .differs", "result")
        await page.click(".compare .differs details summary")
        await sees(page, ".compare .differs details[open] .diff", "replicas")


async def test_a_run_and_a_dry_run_are_asked_for(
    browser: Browser, operator: Operator, cluster: Cluster, project: Project
) -> None:
    namespace = project.namespace
    sample = ObjectKey(namespace, "sample")
    await cluster.create(thing("sample", MEMCACHED, size=2), namespace)
    await settled(cluster, MEMCACHED, sample, "Successful")

    async with visiting(browser, operator) as page:
        await page.goto(path("sample", namespace))
        await sees(page, "#next-run", "period of")
        # The page changes while the button is pressed.
        await page.hover("#run-now")
        await page.mouse.down()
        async with page.expect_response(is_of_the_page_itself) as asked:
            # Of two causes before a reconcile begins it has one.
            await resized(cluster, sample)
        await (await asked.value).finished()
        await page.evaluate("new Promise((turn) => setTimeout(turn))")
        await page.mouse.up()
        await sees(page, f"{last('asked for by')} .state", "succeeded")
        await sees(page, last("spec changed: size"), "generation 2")
        await cluster.delete(GroupVersionKind("", "v1", "ConfigMap"), ObjectKey(namespace, "sample-cache"))
        await sees(page, "section:has(#last) tbody", "ConfigMap")
        await page.click("#dry-run")
        await sees(page, "h1 .state", "dry run")
        await sees(page, "section:has(#plan) .diff", "Memcached")


def is_of_the_page_itself(response: Response) -> bool:
    """Whether it is what a page shows next."""
    return "x-dashboard-live" in response.request.headers


async def test_what_happens_before_a_page_has_its_stream_is_seen(
    browser: Browser, operator: Operator, cluster: Cluster, project: Project
) -> None:
    namespace = project.namespace
    sample = ObjectKey(namespace, "sample")
    await cluster.create(thing("sample", MEMCACHED, size=2), namespace)
    await settled(cluster, MEMCACHED, sample, "Successful")

    async def late(route: Route) -> None:
        await resized(cluster, sample)
        await route.continue_()

    async with visiting(browser, operator) as page:
        # Now and then it asks by itself.
        await page.add_init_script("window.setInterval = () => 0")
        await page.route("**/live?*", late, times=1)
        await page.goto(path("sample", namespace))
        await sees(page, f"{last('spec changed: size')} .state", "succeeded")


async def test_a_failure_says_why(browser: Browser, operator: Operator, cluster: Cluster, project: Project) -> None:
    namespace = project.namespace
    await cluster.create(thing("nightly", BACKUP), namespace)
    await settled(cluster, BACKUP, ObjectKey(namespace, "nightly"), "Failure")
    async with visiting(browser, operator) as page:
        await page.goto("/?state=failed")
        await sees(page, ".crs tbody .message", "non-zero return code")
        await page.click(".crs >> text=nightly")
        await sees(page, ".failure", "non-zero return code")
        await sees(page, "#next-run", re.compile(r"as its last run failed \(try \d+\)|waits since|now:"))
        await page.click("section:has(#last) tbody tr:has(.failed) a")
        # It is open, as it is what one looks for.
        await sees(page, "#task-2[open] .items", "sessions.db")
        await sees(page, "#task-2 .items li:nth-child(1)", "copied users.db")
        await sees(page, "#task-2 .items li:nth-child(2) .state", "failed")
        # Of one state of the page.
        first, second = await page.evaluate(BARS)
        assert first < second


async def test_without_scripts_all_of_it_can_be_read_and_asked_for(
    browser: Browser, operator: Operator, cluster: Cluster, project: Project
) -> None:
    namespace = project.namespace
    await cluster.create(thing("sample", MEMCACHED, size=2), namespace)
    await settled(cluster, MEMCACHED, ObjectKey(namespace, "sample"), "Successful")
    async with visiting(browser, operator, java_script_enabled=False) as page:
        await page.fill("#filter-text", "amp")
        await page.select_option("#filter-state", "ok")
        # One that is still loaded cannot be loaded again.
        async with page.expect_navigation(url="**text=amp**"):
            await page.click("#filter-go")

        async def is_listed() -> bool:
            await page.reload()
            return await page.locator(".crs tbody a").count() > 0

        await until(is_listed, "it is listed as it waits for its next run")
        # By the keyboard alone.
        await page.focus(".crs tbody a")
        await page.keyboard.press("Enter")
        await sees(page, "h1", "Memcached sample")
        async with page.expect_navigation():
            await page.click("#run-now")

        async def has_run_again() -> bool:
            await page.reload()
            return await page.locator(f"{last('asked for by')} .state:text-is('succeeded')").count() > 0

        await until(has_run_again, "it was run as it was asked for")
        await page.click(f"{last('created')} a")
        await page.click("#task-1 > summary")
        await sees(page, "#task-1[open] .details", "kubernetes.core.k8s")


async def test_in_the_dark_and_on_a_phone(browser: Browser, operator: Operator, cluster: Cluster, project: Project) -> None:
    namespace = project.namespace
    await cluster.create(thing("sample", MEMCACHED, size=2), namespace)
    await settled(cluster, MEMCACHED, ObjectKey(namespace, "sample"), "Successful")
    async with visiting(browser, operator, color_scheme="dark") as page:
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", ground)[:3])) < 64
        await page.set_viewport_size({"width": 360, "height": 700})
        for address in ("/", path("sample", namespace)):
            await page.goto(address)
            await page.wait_for_selector("h1")
            # What is wider, scrolls by itself.
            assert await page.evaluate(WIDER) == []


@pytest.mark.skipif(PICTURES is None, reason="the pictures are written with ROLERUNNER_PICTURES=1")
async def test_pictures(browser: Browser, project: Project, cluster: Cluster) -> None:
    namespace = "shop"
    await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    operator = await started(project, DEPLOYS.replace("paused: true", "paused: false"), WATCH_NAMESPACE=namespace)
    for name, size in (("sessions", 3), ("pages", 2), ("queries", 5), ("images", 1)):
        await cluster.create(thing(name, MEMCACHED, size=size, note="ready"), namespace)
    await cluster.create(thing("nightly", BACKUP), namespace)
    sessions = ObjectKey(namespace, "sessions")
    await settled(cluster, MEMCACHED, sessions, "Successful")
    await settled(cluster, BACKUP, ObjectKey(namespace, "nightly"), "Failure")
    async with visiting(browser, operator) as page:
        await page.goto(path("sessions", namespace))
        for generation in (2, 3):
            await cluster.patch(MEMCACHED, sessions, {"spec": {"size": 2 * generation}})
            await sees(page, f"{last(f'generation {generation}')} .state", "succeeded")
            # For the timeline to look like one.
            await asyncio.sleep(2 * generation)
        await at_rest(page, "spec changed: size")
        await cluster.patch(DEPLOYMENT, sessions, {"spec": {"replicas": 9}})
        await sees(page, f"{last('spec.replicas')} .state", "succeeded")
        await picture(page, "custom-resource")
        await page.click(f"{last('spec.replicas')} a")
        await page.click("#task-1 > summary")
        await page.click("#task-2 > summary")
        await sees(page, "#task-1 .diff", "replicas")
        await picture(page, "run")
        await page.goto("/")
        await sees(page, ".crs tbody", "sessions")
        await picture(page, "overview")


async def test_a_login_with_a_token_over_tls(browser: Browser, cluster: Cluster, project: Project) -> None:
    gvk = await cluster.install(crd(THING))
    project.role("- ansible.builtin.debug: {msg: hello}\n")
    project.watch(gvk)
    operator = await project.start("--dashboard-bind-address=127.0.0.1:0")
    await cluster.create(thing(), project.namespace)
    await settled(cluster, gvk, ObjectKey(project.namespace, "one"), "Successful")
    bob = await user(cluster, operator, project.namespace, "bob", "get", "list", "update")
    # Its certificate is self-signed.
    context = await browser.new_context(base_url=bob.address, viewport=SIZE, ignore_https_errors=True)
    context.set_default_timeout(PATIENCE)
    page, here = await context.new_page(), page_of(project.namespace, "one")
    await page.goto(here)
    await page.fill("#token", "made-up")
    await page.click("button[type=submit]")
    await sees(page, "main", "The cluster does not know this token")
    await page.fill("#token", bob.token)
    await page.click("button[type=submit]")
    # The page that was asked for first.
    await page.wait_for_url(f"**{here}")
    (cookie,) = await context.cookies()
    name = f"__Host-rolerunner-{urlsplit(bob.address).port}"
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"]) == (name, True, True)
    assert cookie["sameSite"] == "Strict"
    await page.click("#run-now")
    await sees(page, "main", f"asked for by {bob.name}")
    await page.click("#dry-run")
    await page.wait_for_url("**/run/*")
    # A browser leaves the cookie out where another site has a link.
    other = await context.new_page()
    await other.goto("data:text/html,<a id=link>a link</a>")
    await other.evaluate("address => { document.getElementById('link').href = address }", f"{bob.address}{here}")
    await other.click("#link")
    await sees(other, "main", "asked for by")
    await page.click("text=Log out")
    await page.wait_for_url("**/login")
    assert await context.cookies() == []

    # What is open elsewhere ends as well. It may be loading itself again by then.
    async def is_out() -> bool:
        with contextlib.suppress(Error):
            await other.reload()
            return "A token of the cluster" in (await other.text_content("main") or "")
        return False

    await until(is_out, "the other page asks for a token")
    assert bob.token not in operator.output
    await context.close()
