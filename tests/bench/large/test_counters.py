from bench.large.counters import lists, more, requests, series

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


def test_lists_by_resource_and_by_who_answered() -> None:
    before = 'apiserver_cache_list_total{index="",resource_prefix="/bench.example.com/pairs"} 2\n'
    after = (
        'apiserver_cache_list_total{index="",resource_prefix="/bench.example.com/pairs"} 5\n'
        'apiserver_cache_list_total{index="by-owner",resource_prefix="/bench.example.com/pairs"} 1\n'
        'apiserver_cache_list_total{group="",index="",resource="services"} 2\n'
        'apiserver_storage_list_total{group="",resource="services"} 1\n'
        'apiserver_storage_list_total{resource="configmaps"} 1\n'
    )
    assert lists(before, after) == {
        "pairs": {"watch_cache": 4},
        "services": {"watch_cache": 2, "etcd": 1},
        "configmaps": {"etcd": 1},
    }
