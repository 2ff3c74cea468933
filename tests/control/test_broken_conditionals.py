import logging
from pathlib import Path
from typing import Any

import pytest

from runner.control import Request
from runner.control.broken_conditionals import BrokenConditionals, Places
from runner.executor.jobs import JobEvent
from runner.resource.metadata import ObjectKey
from tests.control.test_workqueue import watch

NOTE = "Conditional result (True) was derived from value of type 'int' at 'x'. Conditionals must have a boolean result."
REQUEST = Request(watch("Thing"), ObjectKey("default", "one"))
ROLE = Path("/roles/thing")


def event(place: str, *, stdout: str = "", deprecations: Any = None, name: str = "runner_on_ok") -> JobEvent:
    return JobEvent.of(
        {"event": name, "stdout": stdout, "event_data": {"task_path": place, "res": {"deprecations": deprecations}}}
    )


def places(*events: JobEvent) -> Places:
    found = Places()
    for one in events:
        found.add(one)
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (event("a:1", deprecations=[{"msg": NOTE, "version": "2.23"}]), True),
        (event("a:1", stdout=f"[DEPRECATION WARNING]: {NOTE}", name="runner_on_skipped"), True),
        (event("a:1", deprecations=[{"msg": "something else"}]), False),
        (event("a:1", deprecations="text"), False),
        (event("a:1", deprecations=["text", {"msg": 1}]), False),
    ],
    ids=["result", "skipped", "another", "text", "odd"],
)
def test_which_tasks_have_one(given: JobEvent, expected: bool) -> None:
    assert given.has_broken_conditional is expected


def test_one_that_is_displayed_by_itself_is_the_current_tasks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        BrokenConditionals().warn(ROLE, REQUEST, places(event("main.yml:5"), event("", stdout=NOTE, name="verbose")))
    assert [record.at for record in caplog.records] == [["main.yml:5"]]  # type: ignore[attr-defined]


def test_one_warning_a_role_and_another_for_new_places(caplog: pytest.LogCaptureFixture) -> None:
    broken = BrokenConditionals()
    notes = [{"msg": NOTE}]
    with caplog.at_level(logging.WARNING):
        broken.warn(ROLE, REQUEST, places(event("main.yml:1"), event("main.yml:2", deprecations=notes)))
        broken.warn(ROLE, REQUEST, places(event("main.yml:2", deprecations=notes)))
        broken.warn(ROLE, REQUEST, places(event("main.yml:2", deprecations=notes), event("more.yml:7", deprecations=notes)))
        broken.warn(Path("/roles/other"), REQUEST, places(event("main.yml:2", deprecations=notes)))
    said = [(record.content, record.at) for record in caplog.records]  # type: ignore[attr-defined]
    assert said == [
        ("/roles/thing", ["main.yml:2"]),
        ("/roles/thing", ["more.yml:7"]),
        ("/roles/other", ["main.yml:2"]),
    ]
    assert {record.refused_from for record in caplog.records} == {"ansible-core 2.23"}  # type: ignore[attr-defined]


def test_a_role_with_very_many_names_some(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        BrokenConditionals().warn(
            ROLE, REQUEST, places(*[event(f"main.yml:{n}", deprecations=[{"msg": NOTE}]) for n in range(50)])
        )
    (record,) = caplog.records
    assert len(record.at) == 20  # type: ignore[attr-defined]
    assert record.more == 30  # type: ignore[attr-defined]
