import pytest

from tests.monitoring import queries
from tests.monitoring.queries import TARGET, Unknown


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("workqueue_depth", {"name", "controller", "priority", *TARGET}),
        ('sum(workqueue_depth{job="x"})', set()),
        ("sum by (pod, controller) (rate(workqueue_adds_total[$__rate_interval]))", {"pod", "controller"}),
        ("sum without (pod) (rolerunner_watching)", TARGET - {"pod"}),
        ("histogram_quantile(0.9, sum by (GVK, le) (rate(ansible_operator_reconciles_bucket[5m])))", {"GVK"}),
        ("time() - process_start_time_seconds", TARGET),
        ("-(sum by (job) (up_to_now)) > 1".replace("up_to_now", "rolerunner_watching"), {"job"}),
        ("rolerunner_watching unless ignoring (name) leader_election_master_status", TARGET),
        ('absent(rolerunner_watching{job="x", pod=~"y"})', {"job"}),
        ('{__name__="$metric"}', TARGET),
        ("1 + 1", set()),
    ],
)
def test_the_labels_of_a_query_s_results(query: str, expected: set[str]) -> None:
    assert queries.labels(query) == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("workqueue_length", "there is no series workqueue_length"),
        ("rolerunner_phase_seconds", "there is no series rolerunner_phase_seconds"),
        ("rate(workqueue_depth_total[5m])", "there is no series workqueue_depth_total"),
        ('workqueue_depth{kind="x"}', "workqueue_depth has no label kind"),
        ("sum by (kind) (workqueue_depth)", "there is no label kind in workqueue_depth"),
        ("sum by (pod) (sum by (job) (workqueue_depth))", "there is no label pod"),
        ("histogram_quantile(0.5, sum by (GVK) (rate(ansible_operator_reconciles_bucket[5m])))", "there is no label le"),
        ("rolerunner_watching and leader_election_master_status", "have other labels"),
    ],
)
def test_what_there_is_not_is_told(query: str, said: str) -> None:
    with pytest.raises(Unknown, match=said):
        queries.labels(query)


def test_a_query_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="unexpected right parenthesis"):
        queries.labels("sum by (pod) workqueue_depth)")


def test_what_is_selected() -> None:
    query = 'sum(a{x="1"}) / on (y) sum(rate(b{y!="2", z=~"3|4"}[5m])) > bool time()'
    first, second = queries.selected(query)
    assert (first.name, first.matchers) == ("a", (("x", "=", "1"),))
    assert (second.name, second.matchers) == ("b", (("y", "!=", "2"), ("z", "=~", "3|4")))
    assert second.matches("b", {"z": "4"})
    assert not second.matches("b", {"z": "34"})
    assert not second.matches("b", {"y": "2", "z": "3"})
    assert second.matches("b", {"y": "2", "z": "3"}, ignoring=frozenset({"y"}))
    assert not second.matches("a", {"z": "3"})
