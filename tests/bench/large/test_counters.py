from bench.large.counters import more, requests, series

METRICS = """# HELP some_total Not this: some_total{verb="GET"} 7
# TYPE some_total counter
some_total{verb="GET",resource="pods"} 3
some_total{verb="GET",resource="pods",subresource="log"} 1.5e+01
some_total_more{verb="GET"} 9
depth 4
"""


def test_series_of_one_metric() -> None:
    found = series(METRICS, "some_total")
    assert found == {
        frozenset({("verb", "GET"), ("resource", "pods")}): 3.0,
        frozenset({("verb", "GET"), ("resource", "pods"), ("subresource", "log")}): 15.0,
    }
    assert series(METRICS, "depth") == {frozenset(): 4.0}
    assert series(METRICS, "other") == {}


def test_more() -> None:
    one, two, new = frozenset({("a", "1")}), frozenset({("a", "2")}), frozenset({("a", "3")})
    assert more({one: 1.0, two: 2.0}, {one: 1.0, two: 5.0, new: 4.0}) == {two: 3.0, new: 4.0}


def test_requests_by_verb_and_resource() -> None:
    before = 'apiserver_request_total{code="200",verb="GET",resource="pods"} 1\n'
    after = (
        'apiserver_request_total{code="200",verb="GET",resource="pods"} 3\n'
        'apiserver_request_total{code="404",verb="GET",resource="pods"} 1\n'
        'apiserver_request_total{code="200",verb="PUT",resource="pods",subresource="status"} 5\n'
        'apiserver_request_total{code="200",verb="GET",resource="",subresource="/readyz"} 9\n'
    )
    assert requests(before, after) == {"PUT pods/status": 5, "GET pods": 3}
