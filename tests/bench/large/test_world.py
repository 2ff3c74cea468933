from bench.large.world import PAIR, renamed
from runner.resource.metadata import ObjectKey


def test_a_copy_of_a_dependent_belongs_to_another_cr() -> None:
    owner = {"apiVersion": PAIR.api_version, "kind": PAIR.kind, "name": "p0", "uid": "u0"}
    metadata = {"name": "p0", "namespace": "here", "uid": "x", "resourceVersion": "5", "ownerReferences": [owner]}
    service = {"kind": "Service", "metadata": metadata, "spec": {"selector": {"app": "p0"}}, "status": {}}
    copied = renamed(service, ObjectKey("there", "p7"), "u7")
    assert copied["metadata"] == {"name": "p7", "ownerReferences": [{**owner, "name": "p7", "uid": "u7"}]}
    assert copied["spec"]["selector"] == {"app": "p7"}
    assert service["spec"] == {"selector": {"app": "p0"}}
