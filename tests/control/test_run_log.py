import logging

import pytest

from runner.config.settings import LogEvents
from runner.control.run_log import RunLog
from runner.logs import VALUE_LIMIT
from tests.control.test_workqueue import A
from tests.executor.test_jobs import event


def test_the_log_has_the_whole_of_what_a_failure_has_written(caplog: pytest.LogCaptureFixture) -> None:
    stderr = "\n".join(f"line {number}" for number in range(50))
    RunLog(A, LogEvents.TASKS, output=False).add(
        event("runner_on_failed", res={"msg": "non-zero return code", "stderr": stderr})
    )
    RunLog(A, LogEvents.TASKS, output=False).add(
        event("runner_on_failed", res={"msg": "non-zero return code", "stderr": "short"})
    )
    first, second = (record.__dict__ for record in caplog.records)
    assert first["stderr"] == stderr
    assert first["error"] == "non-zero return code: line 47\nline 48\nline 49"
    assert "stderr" not in second


def test_what_ansible_printed_comes_in_pieces_that_the_log_takes(caplog: pytest.LogCaptureFixture) -> None:
    printed = [f"{number:09}" for number in range(5000)]
    with caplog.at_level(logging.INFO):
        run_log = RunLog(A, LogEvents.TASKS, output=True)
        for text in printed:
            run_log.add(event("verbose", stdout=text))
        run_log.close()
    pieces = [record.__dict__["output"] for record in caplog.records]
    assert len(pieces) > 1
    assert all(len(piece) <= VALUE_LIMIT for piece in pieces)
    assert "\n".join(pieces).split("\n") == printed
