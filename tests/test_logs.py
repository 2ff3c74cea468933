import io
import json
import logging

import pytest

from runner.logs import VALUE_LIMIT, ConsoleFormatter, JsonFormatter, Once, Options, RunnerEvent, configure
from runner.resource.api_status import readable


def record(message: str = "Task failed", **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "runner.x", "levelname": "ERROR", "msg": message, **fields})


CR = {"kind": "Thing", "namespace": "default", "cr": "one"}


def test_a_json_line_has_zaps_keys_and_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record(event=RunnerEvent.TASK_FAILED, **CR, task="Try", error="boo")))
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "error",
        "logger": "runner.x",
        "msg": "Task failed",
        "event": "task_failed",
        "kind": "Thing",
        "namespace": "default",
        "name": "one",
        "task": "Try",
        "error": "boo",
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "ERROR   Task failed"),
        ({**CR, "task": "Try"}, "ERROR   Thing default/one: Task failed  task=Try"),
        ({**CR, "namespace": ""}, "ERROR   Thing one: Task failed"),
        ({"error": "boo"}, "ERROR   Task failed  boo"),
        ({"error": "a\nb"}, "ERROR   Task failed\n    a\n    b"),
        ({"event": RunnerEvent.TASK_FAILED}, "ERROR   Task failed"),
    ],
)
def test_a_console_line_is_for_people(fields: dict[str, object], expected: str) -> None:
    assert ConsoleFormatter(color=False).format(record(**fields)).partition(" ")[2] == expected


def test_where_no_terminal_is_lines_are_json() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure(Options(), stream=stream)
        logging.getLogger("runner.test").info("Hello", extra={"a": 1})
        logging.getLogger("kopf.test").info("chatter")
        logging.getLogger("kopf.test").error(
            "Request attempt #1/1 failed; escalating: GET https://… -> APIForbiddenError(…)"
        )
        logging.getLogger("kopf.test").warning("Not enough permissions")
    finally:
        root.handlers[:], root.level = before[0], before[1]
    assert [json.loads(line)["msg"] for line in stream.getvalue().splitlines()] == ["Hello", "Not enough permissions"]


@pytest.mark.parametrize(
    "formatter",
    [JsonFormatter(readable=readable), ConsoleFormatter(color=False, readable=readable)],
    ids=["json", "console"],
)
def test_an_answer_that_kopf_quotes_is_a_sentence(formatter: logging.Formatter) -> None:
    status = {"kind": "Status", "status": "Failure", "message": "no rights", "reason": "Forbidden", "code": 403}
    error = ValueError("no rights", status)
    line = formatter.format(record(f"It has failed: {error}", exc_info=(ValueError, error, None)))
    assert line.count("Forbidden: no rights") == 2
    assert "Failure" not in line


FORMATTERS = pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter(color=False)], ids=["json", "console"])


def circle() -> list[object]:
    made: list[object] = []
    made.append(made)
    return made


def deep() -> list[object]:
    made: list[object] = []
    for _ in range(100_000):
        made = [made]
    return made


@FORMATTERS
@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ["x" * 100] * 10**4, {"a": {"b": "x" * 10**6}}, 10**4000, {(1, 2): 3}, circle(), deep()],
    ids=["text", "list", "mapping", "number", "odd keys", "circle", "deep"],
)
@pytest.mark.parametrize("field", ["note", "error", "output"])
def test_a_value_is_bounded(formatter: logging.Formatter, value: object, field: str) -> None:
    line = formatter.format(record(**{field: value}))
    # JSON escapes some characters.
    assert len(line) < 1.1 * VALUE_LIMIT
    assert ("characters)" in line) is (len(line) > VALUE_LIMIT)


@FORMATTERS
def test_messages_and_tracebacks_are_bounded(formatter: logging.Formatter) -> None:
    error = ValueError("x" * 10**6 + " the end")
    line = formatter.format(record("y" * 10**6, exc_info=(ValueError, error, None)))
    assert len(line) < 2 * VALUE_LIMIT + 400
    assert "the end" in line


def test_a_key_is_new_once_until_it_is_forgotten() -> None:
    once = Once(limit=2)
    assert [once.is_new(key) for key in ("a", "a", "b", "a")] == [True, False, True, False]
    # No more than the limit is remembered.
    assert [once.is_new(key) for key in ("c", "a")] == [True, True]
    once.reset()
    assert once.is_new("a")


def test_with_a_limit_of_one_a_key_is_new_when_it_differs_from_the_last() -> None:
    last = Once(limit=1)
    assert [last.is_new(key) for key in ("a", "a", "b", "a")] == [True, False, True, True]
