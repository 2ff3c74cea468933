"""The dashboard of an operator at work."""

from __future__ import annotations

import aiohttp

from bench.driver import Cluster, Operator, condition, until
from runner.resource.metadata import ObjectKey
from tests.conftest import THING, Project, lines, thing

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


def url(operator: Operator) -> str:
    (record,) = lines(operator, "Serving the dashboard")
    return f"{'https' if record['secure'] else 'http'}://{record['address']}"


async def test_with_its_key_the_dashboard_is_seen(project: Project, world: Cluster) -> None:
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

    async def is_ok() -> bool:
        return condition(await world.get(THING, ObjectKey(project.namespace, "one")), "Successful").get("status") == "True"

    await until(is_ok, "the run does not have the key")
    assert KEY not in operator.output
