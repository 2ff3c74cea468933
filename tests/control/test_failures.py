import json
from typing import Any

from runner.control.failures import explained
from runner.executor.jobs import JobEvent, Loops

REFUSED = {
    **{"kind": "Status", "reason": "BadRequest", "code": 400},
    "message": "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
}
DEFINITION = {"kind": "ConfigMap", "data": {"size": 5}}
RESULT = {
    "msg": f"Failed to create object: {json.dumps(REFUSED)}",
    "invocation": {"module_args": {"definition": DEFINITION, "resource_definition": DEFINITION}},
}


def event(name: str, result: Any, **data: Any) -> JobEvent:
    return JobEvent.of({"event": name, "event_data": {"res": result, "task_uuid": "1", "host": "x", **data}})


def test_what_the_server_said_and_what_to_do() -> None:
    first, second = explained(event("runner_on_failed", RESULT)).message.splitlines()
    assert first == f"Failed to create object: BadRequest: {REFUSED['message']}"
    assert second.startswith("ConfigMap data.size (a number) must be text")


def test_each_item_of_a_loop_has_its_own() -> None:
    loops = Loops()
    explained(loops.joined(event("runner_item_on_failed", {**RESULT, "item": 1})))
    said = explained(loops.joined(event("runner_on_failed", {"msg": "One or more items failed"}))).message
    assert said.count("must be text") == 1
    assert "item=1: Failed to create object: BadRequest" in said


def test_other_events_stay_as_they_are() -> None:
    for told in (event("runner_on_ok", RESULT), event("runner_on_failed", RESULT, ignore_errors=True)):
        assert explained(told) is told
    plain = event("runner_on_failed", {"msg": "boo", "invocation": "odd"})
    assert explained(plain).message == "boo"
