import json
import logging
from typing import Any

import pytest

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


def failed(message: str, definition: Any = None) -> JobEvent:
    return event("runner_on_failed", {"msg": message, "invocation": {"module_args": {"definition": definition}}})


@pytest.mark.parametrize(
    ("message", "definition"),
    [
        ("Tier {'kind': 'Status', []: 1} is not supported", None),
        ("cannot convert int64 to string", "a: !!bool x"),
        ("cannot convert int64 to string", "a: !!int ''"),
        ("cannot convert int64 to string", f"0x{'f' * 5000}: 5"),
        ("cannot convert int64 to string", {"a{b}": {"{0.real}": 5}}),
    ],
    ids=["unhashable key", "no boolean", "no integer", "a key too long to be shown", "braces in keys"],
)
def test_a_text_that_parsers_choke_on_keeps_its_own_words(message: str, definition: Any) -> None:
    assert explained(failed(message, definition)).message.startswith(message)


def test_what_cannot_be_explained_is_the_event_that_it_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runner.control.failures")
    told = failed("cannot convert int64 to string", {10**5000: 5})
    assert explained(told) == told
    assert [record.message for record in caplog.records] == ["Failure not put into better words"]


STATUS = '{"kind": "Status", "message": "x"}'
QUOTES = '"' + '\\"' * 15_000
BOMB = "- &a0 [{a: 1}]\n" + "".join(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
BASE = f"- &a {{{', '.join(f'k{n}: 1' for n in range(3_000))}}}\n"
MERGES = BASE + "- {!!merge x: *a}\n" * 1_500
SHARED = BASE + "- {x: *a}\n" * 3_000
FIELDS = "".join(f"cannot unmarshal number into Go struct field x.y{n % 50} of type string " for n in range(200_000))
NUMBERS = {"kind": "ConfigMap", "data": {f"k{n}": n for n in range(9_000)}}
UNNAMED = "cannot convert int64 to string "
DEEP: Any = {"k" * 1_000_000: [1] * 9_000}
KIND: Any = "x"
for _ in range(20):
    KIND = [KIND] * 9


@pytest.mark.parametrize(
    ("message", "definition"),
    [
        (json.dumps({"kind": "Status", "message": QUOTES}), None),
        (json.dumps({"kind": "Status", "message": QUOTES + QUOTES[1:] * 20}), None),
        (("{'kind': 'Status', " + QUOTES) * 20, None),
        ("(404)Reason: " * 4_900 + STATUS, None),
        ("(404)Reason: " * 1_000_000 + STATUS, None),
        ("expected string, got " + "[ .]" * 16_000, None),
        ("expected string, got " + "[ .]" * 1_000_000, None),
        (UNNAMED, BOMB),
        (UNNAMED, MERGES),
        (UNNAMED, SHARED),
        (UNNAMED, {"kind": KIND, "a": 1}),
        (UNNAMED, DEEP),
        (UNNAMED, [f"{n}: [{'1,' * 30_000}]" for n in range(3_000)]),
        (FIELDS, NUMBERS),
        (UNNAMED * 2_000, NUMBERS),
        (UNNAMED * 1_000_000, NUMBERS),
    ],
    ids=[
        *("escaped quotes", "more escaped quotes", "of Python", "reasons", "more reasons", "paths", "more paths"),
        *("aliases", "merge keys", "shared values", "a kind"),
        *("a long key", "many texts", "many fields", "unnamed", "more unnamed"),
    ],
)
def test_what_grows_out_of_proportion_is_borne(message: str, definition: Any) -> None:
    """That this ends shows that no part of a text is looked at again and again: otherwise minutes, or for ever."""
    assert explained(failed(message, definition)).message
