from runner import metrics
from runner.control.failing import Failing
from tests.control.test_workqueue import request, watch


def shown(kind: str) -> tuple[float, float]:
    """The number of CRs that fail, and how long the longest of them has."""
    found = dict(line.rsplit(" ", 1) for line in metrics.exposition().decode().splitlines() if not line.startswith("#"))
    label = f'{{GVK="example.com/v1, Kind={kind}"}}'
    names = ("rolerunner_failing_custom_resources", "rolerunner_longest_failing_seconds")
    count, longest = (float(found[name + label]) for name in names)
    return count, longest


def test_the_first_failure_in_a_row_counts() -> None:
    now = [100.0]
    first, other = watch("Failing"), watch("Other")
    failing = Failing([first, other], lambda: now[0])
    assert shown("Failing") == shown("Other") == (0, 0)
    failing.add(request("a", first))
    now[0] += 10
    failing.add(request("a", first))
    failing.add(request("b", first))
    now[0] += 5
    assert (shown("Failing"), shown("Other")) == ((2, 15), (0, 0))
    failing.discard(request("a", first))
    failing.discard(request("never failed", first))
    assert shown("Failing") == (1, 5)
    failing.discard(request("b", first))
    assert shown("Failing") == (0, 0)
