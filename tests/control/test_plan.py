"""What a plan keeps of its run. What it says is in tests/behaviour/test_dry_runs.py."""

from runner.control import plan as module
from runner.control.plan import Plan
from runner.executor.jobs import Outcome
from runner.proxy.dry_run import DryRun
from tests.executor.test_jobs import event, failure


def test_it_keeps_what_it_has_to_say_and_no_more() -> None:
    cr = {"kind": "Thing", "namespace": "default", "cr": "a"}
    plan = Plan(cr, DryRun(cr={"metadata": {}}, path="/x"))
    for number in range(module._MOST_EVENTS + 10):
        plan.add(event("runner_on_ok", res={"changed": False}))
        plan.add(event("runner_on_ok", task=f"task {number}", res={"changed": True}, resolved_action="x.y.z"))
    plan.add(failure("boo", task="Try"))
    plan.outcome = Outcome(messages=("boo",), reports=("Task 'Try' failed: boo",))
    assert len(plan.events) == module._MOST_EVENTS
    assert "task 'Try' failed: boo" in plan.text()
    assert "task 'task 500' is not predicted" in plan.text()
