"""The dashboard of an operator at work, for callers with the rights that a cluster gives them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from bench.driver import PATIENCE, Cluster, Operator, condition, until
from runner.resource.metadata import GroupVersionKind, ObjectKey
from tests.conftest import THING, Project, lines, permitted, thing

RBAC = "rbac.authorization.k8s.io"
NAMESPACE = GroupVersionKind("", "v1", "Namespace")
ACCOUNT = GroupVersionKind("", "v1", "ServiceAccount")
# Neither Ansible nor a process that it starts has the key.
TASKS = """
- ansible.builtin.command: env
  register: env
- ansible.builtin.assert:
    that:
      - lookup('env', 'ROLERUNNER_DASHBOARD_KEY') == ''
      - "'DASHBOARD' not in env.stdout"
"""
KEY = "0123456789abcdef"
CONFIG = """
- name: A task of {{ ansible_operator_meta.name }}
  kubernetes.core.k8s:
    definition:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: "{{ ansible_operator_meta.name }}", namespace: "{{ ansible_operator_meta.namespace }}"}
      data: {text: "{{ text | default('none') }}"}
"""


def url(operator: Operator) -> str:
    (record,) = lines(operator, "Serving the dashboard")
    return f"{'https' if record['secure'] else 'http'}://{record['address']}"


async def test_with_its_key_the_dashboard_is_seen_and_runs_do_not_have_it(project: Project, world: Cluster) -> None:
    project.role(TASKS)
    project.watch()
    operator = await project.start("--dashboard-bind-address=127.0.0.1:0", ROLERUNNER_DASHBOARD_KEY=KEY)
    await world.create(thing(), project.namespace)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(url(operator), cookie_jar=jar) as session:
        async with session.get("/") as answer:
            assert answer.status == 401
        async with session.get("/", params={"key": KEY}) as answer:
            assert (answer.status, answer.url.query_string) == (200, "")
        async with session.get("/") as answer:
            assert answer.status == 200
    await ends(world, ObjectKey(project.namespace, "one"))
    assert KEY not in operator.output


async def test_a_key_is_sent_over_no_network(project: Project) -> None:
    project.role("[]")
    project.watch()
    operator = await project.start("--dashboard-bind-address=:0", wait=False, ROLERUNNER_DASHBOARD_KEY=KEY)
    assert await asyncio.to_thread(operator.process.wait, PATIENCE) == 1
    assert "--dashboard-bind-address :0: with ROLERUNNER_DASHBOARD_KEY it is served without TLS" in operator.output
    assert "Traceback" not in operator.output
    assert KEY not in operator.output


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    text: str
    headers: Any


@dataclass(frozen=True, slots=True)
class User:
    """A ServiceAccount that talks to the dashboard."""

    name: str
    token: str
    address: str

    async def ask(self, method: str, path: str, *, cookie: str = "", **form: str) -> Page:
        """With the token, as a program does, or with a browser's cookie."""
        headers = {"Cookie": cookie} if cookie else {"Authorization": f"Bearer {self.token}"}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), headers=headers) as session,
            session.request(method, f"{self.address}{path}", data=form, ssl=False, allow_redirects=False) as answer,
        ):
            return Page(answer.status, await answer.text(), answer.headers)

    async def log_in(self) -> str:
        """The cookie that a browser gets for the token."""
        answer = await self.ask("POST", "/login", token=self.token)
        assert answer.status == 303
        return str(answer.headers["Set-Cookie"]).partition(";")[0]


@pytest.fixture
async def other(world: Cluster, namespace: str) -> AsyncIterator[str]:
    """Another namespace."""
    name = f"{namespace}-other"
    await world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await world.delete(NAMESPACE, ObjectKey("", name))


async def user(world: Cluster, operator: Operator, namespace: str, name: str, *verbs: str) -> User:
    """A ServiceAccount that may do this to the Things of its namespace."""
    await world.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace)
    meta = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name}}
    if verbs:
        rule = {"apiGroups": [THING.group], "resources": ["things"], "verbs": list(verbs)}
        await world.create({**meta, "kind": "Role", "rules": [rule]}, namespace)
        role = {"apiGroup": RBAC, "kind": "Role", "name": name}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        await world.create({**meta, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]}, namespace)
        # The dashboard does not ask again for a while about what was not allowed.
        await permitted(world, f"system:serviceaccount:{namespace}:{name}", [rule], namespace)
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    answer = await world.client.post(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    return User(f"system:serviceaccount:{namespace}:{name}", answer["status"]["token"], url(operator))


async def ends(world: Cluster, key: ObjectKey) -> None:
    async def is_ok() -> bool:
        return condition(await world.get(THING, key), "Successful").get("status") == "True"

    await until(is_ok, f"{key} was run")


def run_of(operator: Operator, name: str) -> str:
    return str(lines(operator, "Running", name=name)[-1]["job"])


def page_of(namespace: str, name: str) -> str:
    return f"/cr/test.example.com/v1/Thing/{namespace}/{name}"


@contextlib.asynccontextmanager
async def two_tenants(project: Project, world: Cluster, other: str) -> AsyncIterator[Operator]:
    """`mine` in the project's namespace and `veiled` in the other one, both of which have been run."""
    project.role(CONFIG)
    project.watch()
    operator = await project.start("--dashboard-bind-address=127.0.0.1:0", WATCH_NAMESPACE=f"{project.namespace},{other}")
    await world.create(thing("mine"), project.namespace)
    await world.create(thing("veiled", text="what-veiled-says"), other)
    await ends(world, ObjectKey(project.namespace, "mine"))
    await ends(world, ObjectKey(other, "veiled"))
    yield operator


async def test_a_token_sees_what_it_may_read_and_nothing_else(project: Project, world: Cluster, other: str) -> None:
    namespace = project.namespace
    async with two_tenants(project, world, other) as operator:
        ann = await user(world, operator, namespace, "ann", "get", "list")
        eve = await user(world, operator, other, "eve", "get", "list")
        mine, hidden = run_of(operator, "mine"), run_of(operator, "veiled")
        secrets = ("veiled", other, hidden, "what-veiled-says")
        for path in ("/", "/?text=veiled", f"/?namespace={other}", "/?state=ok", "/?page=2"):
            answer = await ann.ask("GET", path)
            assert answer.status == 200
            # What was asked for may be in the form's fields.
            text = answer.text.replace('value="veiled"', "").replace(f'value="{other}"', "")
            assert [word for word in secrets if word in text] == [], path
        assert "mine" in (await ann.ask("GET", "/")).text
        for path, word in ((page_of(namespace, "mine"), "mine"), (f"/run/{mine}", "A task of mine")):
            answer = await ann.ask("GET", path)
            assert (answer.status, word in answer.text) == (200, True), path
            assert [secret for secret in secrets if secret in answer.text] == [], path
        # The same answer as for what does not exist.
        nothing = await ann.ask("GET", "/run/0123456789abcdef")
        assert nothing.status == 404
        for path in (
            *(page_of(other, "veiled"), page_of(other, "none"), page_of("no-such", "none"), page_of(namespace, "none")),
            *(f"/run/{hidden}", "/run/none", f"/compare?one={mine}&other={hidden}", f"/compare?one={hidden}&other={mine}"),
            *(f"/live?path=/run/{hidden}", f"/live?path={page_of(other, 'veiled')}"),
        ):
            answer = await ann.ask("GET", path)
            assert (answer.status, answer.text) == (404, nothing.text), path
        seen = await eve.ask("GET", f"/run/{hidden}")
        assert (seen.status, "what-veiled-says" in seen.text, "A task of veiled" in seen.text) == (200, True, True)
        assert ann.token not in operator.output


async def test_who_may_not_update_has_no_buttons_and_asks_in_vain(project: Project, world: Cluster, other: str) -> None:
    namespace = project.namespace
    async with two_tenants(project, world, other) as operator:
        ann = await user(world, operator, namespace, "ann", "get", "list")
        bob = await user(world, operator, namespace, "bob", "get", "list", "update")
        here = page_of(namespace, "mine")
        for someone, buttons in ((ann, 0), (bob, 2)):
            cookie = await someone.log_in()
            answer = await someone.ask("GET", here, cookie=cookie)
            assert answer.status == 200
            assert sum(answer.text.count(f'action="{here}/{what}"') for what in ("run", "dry-run")) == buttons
        form_token = re.findall(r'name="form_token" value="([^"]+)"', answer.text)[0]
        for path, status in ((here, 403), (page_of(other, "veiled"), 404)):
            for what in ("run", "dry-run"):
                assert (await ann.ask("POST", f"{path}/{what}")).status == status
        assert (await bob.ask("POST", f"{page_of(other, 'veiled')}/run")).status == 404
        assert (await bob.ask("POST", f"{here}/run", cookie=cookie)).status == 403
        answer = await bob.ask("POST", f"{here}/run", cookie=cookie, form_token=form_token)
        assert (answer.status, answer.headers["Location"]) == (303, here)

        async def runs() -> bool:
            return bool(lines(operator, "Running", name="mine", cause=f"asked for by {bob.name}"))

        await until(runs, "it runs as it was asked to")
        asked_for = [line for line in lines(operator, "Running") if line.get("cause", "").startswith("asked for by")]
        assert [(line["name"], line["cause"]) for line in asked_for] == [("mine", f"asked for by {bob.name}")]


async def test_a_dry_run_says_what_would_change_and_changes_nothing(project: Project, world: Cluster, other: str) -> None:
    namespace = project.namespace
    config_map, key = GroupVersionKind("", "v1", "ConfigMap"), ObjectKey(namespace, "mine")
    async with two_tenants(project, world, other) as operator:
        bob = await user(world, operator, namespace, "bob", "get", "list", "update")
        eve = await user(world, operator, other, "eve", "get", "list", "update")
        project.role(CONFIG.replace("'none'", "'planned'"))
        before = await world.get(config_map, key)
        answer = await bob.ask("POST", f"{page_of(namespace, 'mine')}/dry-run")
        assert answer.status == 303
        # It is answered at once, and the page says how far it is.
        plan = await bob.ask("GET", answer.headers["Location"])
        assert plan.status == 200

        async def is_there() -> bool:
            nonlocal plan
            plan = await bob.ask("GET", answer.headers["Location"])
            return "1 to change" in plan.text

        await until(is_there, "the plan is there")
        assert "planned" in plan.text
        assert answer.headers["Location"] in (await bob.ask("GET", page_of(namespace, "mine"))).text
        assert (await eve.ask("GET", answer.headers["Location"])).status == 404
        assert await world.get(config_map, key) == before


async def test_a_token_that_was_good_is_not_for_ever(project: Project, world: Cluster) -> None:
    project.role("[]")
    project.watch()
    operator = await project.start("--dashboard-bind-address=127.0.0.1:0")
    ann = await user(world, operator, project.namespace, "ann", "get", "list")
    nobody = await user(world, operator, project.namespace, "nobody")
    gone = await user(world, operator, project.namespace, "gone", "get", "list")
    await world.delete(ACCOUNT, ObjectKey(project.namespace, "gone"))
    assert (await ann.ask("GET", "/")).status == 200
    assert (await nobody.ask("GET", "/")).status == 200

    async def is_refused() -> bool:
        return (await gone.ask("GET", "/")).status == 401

    await until(is_refused, "a deleted account gets nothing")
    no_one = User("", ann.token[:-3] + "AAA", ann.address)
    assert (await no_one.ask("GET", "/")).status == 401


async def test_a_replica_that_waits_passes_requests_on_to_the_one_that_leads(project: Project, world: Cluster) -> None:
    """As behind a Service, which takes any of them. They are on one machine here, and have one address."""
    project.role(CONFIG)
    project.watch()
    flags = ("--dashboard-bind-address=127.0.0.1:0", "--leader-elect", "--leader-election-id=test")
    flags += (f"--leader-election-namespace={project.namespace}",)
    leader = await project.start(*flags, POD_IP="127.0.0.1")
    other = f"--runs-dir={project.folder / 'waiting'}"
    waiting = await project.start(*flags, other, wait=False, POD_IP="127.0.0.1")
    namespace = project.namespace
    await world.create(thing("first"), namespace)
    await ends(world, ObjectKey(namespace, "first"))

    async def waits() -> bool:
        return bool(lines(waiting, "Waiting for the lease"))

    await until(waits, "the second replica waits")
    bob = await user(world, waiting, namespace, "bob", "get", "list", "update")

    async def sees() -> bool:
        return (await bob.ask("GET", "/")).status == 200

    await until(sees, "the second replica has the leader answer")
    nobody = User("", "made-up", bob.address)
    assert (await nobody.ask("GET", "/")).status == 401

    # A browser that logs in at the one is logged in at the other: it does not know which of them it talks to.
    cookie = await bob.log_in()
    here = page_of(namespace, "first")
    for address in (bob.address, url(leader)):
        host = {"Host": bob.address.removeprefix("https://"), "Cookie": cookie}
        async with aiohttp.ClientSession(headers=host) as session, session.get(address + here, ssl=False) as answer:
            text = await answer.text()
            assert (answer.status, "ConfigMap" in text) == (200, True)
    form_token = re.findall(r'name="form_token" value="([^"]+)"', text)[0]

    async with (
        aiohttp.ClientSession(headers={"Cookie": cookie}, timeout=aiohttp.ClientTimeout(PATIENCE)) as session,
        session.get(f"{bob.address}/live?path=/", ssl=False) as stream,
    ):
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        await stream.content.readuntil(b"\n\n")
        await world.create(thing("second"), namespace)
        assert await stream.content.readuntil(b"\n\n") == b"data: changed\n\n"
    await ends(world, ObjectKey(namespace, "second"))
    assert "second" in (await bob.ask("GET", "/", cookie=cookie)).text

    before = len(lines(leader, "Running", name="first"))
    answer_to_form = await bob.ask("POST", f"{here}/run", cookie=cookie, form_token=form_token)
    assert (answer_to_form.status, answer_to_form.headers["Location"]) == (303, here)

    async def runs() -> bool:
        return len(lines(leader, "Running", name="first")) == before + 1

    await until(runs, "the leader runs it, as it was asked to")
    assert lines(waiting, "Running") == []

    assert await asyncio.to_thread(leader.stop) == 0

    async def shows() -> bool:
        page = await bob.ask("GET", "/")
        return page.status == 200 and "second" in page.text

    # Its list of the CRs comes after its first page.
    await until(shows, "the second replica shows the CRs")
    # There is nobody any more whom it could have asked.
    assert lines(waiting, "Leading")
    # The leader's logins ended with it.
    assert (await bob.ask("GET", "/", cookie=cookie)).status == 401
    assert (await bob.ask("GET", "/", cookie=await bob.log_in())).status == 200
    assert "Traceback" not in leader.output + waiting.output
    assert bob.token not in leader.output + waiting.output


async def test_a_replica_that_waits_to_lead_names_the_one_that_does(project: Project, world: Cluster) -> None:
    project.role("[]")
    project.watch()
    flags = ("--dashboard-bind-address=127.0.0.1:0", "--leader-elect", "--leader-election-id=test")
    flags += (f"--leader-election-namespace={project.namespace}",)
    leader = await project.start(*flags)
    waiting = await project.start(*flags, f"--runs-dir={project.folder / 'waiting'}", wait=False)

    async def waits() -> bool:
        return bool(lines(waiting, "Waiting for the lease"))

    await until(waits, "the second replica waits")
    ann = await user(world, waiting, project.namespace, "ann", "get", "list")
    (record,) = lines(leader, "Leading")
    answer = await ann.ask("GET", "/")
    assert answer.status == 503
    assert f"The Lease {project.namespace}/test is held by {record['identity'].partition('_')[0]}:" in answer.text
    leader.stop()

    async def shows() -> bool:
        return (await ann.ask("GET", "/")).status == 200

    await until(shows, "the second replica shows the CRs")
