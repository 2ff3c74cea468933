from runner import metrics


def test_the_series_are_those_of_the_dashboards_users_have() -> None:
    with metrics.reconciling("a/v1, Kind=K"):
        pass
    metrics.reconciled("a/v1, Kind=K", succeeded=True)
    text = metrics.exposition().decode()
    assert 'ansible_operator_reconcile_result{GVK="a/v1, Kind=K",result="succeeded"} 1.0' in text
    assert 'ansible_operator_reconciles_count{GVK="a/v1, Kind=K"} 1.0' in text
    assert 'ansible_operator_build_info{commit="",version="' in text
