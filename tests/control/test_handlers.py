from typing import Any

import pytest

from runner import metrics
from runner.config.related import Mapper, by_expression, by_label
from runner.config.watches import Related
from runner.control import Priority, Request, Taken, handlers
from runner.control.handlers import Handlers, dependent_changed
from runner.control.own_writes import VersionChange
from runner.resource.metadata import PRIMARY_RESOURCE, PRIMARY_RESOURCE_TYPE, GroupVersionKind, ObjectKey
from runner.resource.selectors import Requirement, Selector
from tests.control.test_workqueue import watch

THING = watch("Thing")


def cr(name: str = "one", *, generation: int | None = 1, version: str = "1", **metadata: Any) -> dict[str, Any]:
    fields = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": version, **metadata}
    if generation:
        fields["generation"] = generation
    return {"metadata": fields}


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class Seen:
    """Handlers of one watch, and what they have put on the queue."""

    def __init__(self, **options: Any) -> None:
        from dataclasses import replace

        self.added: list[tuple[str, Priority]] = []
        self.delays: list[float] = []
        self.watch = replace(THING, **options)
        self.handlers = Handlers([self.watch], self._add)

    def _add(self, request: Request, priority: Priority, after: float) -> None:
        self.added.append((str(request.key), priority))
        self.delays.append(after)

    def request(self, name: str = "one") -> Request:
        return Request(self.watch, ObjectKey("default", name))

    def primary(self, event: str | None, obj: dict[str, Any]) -> list[tuple[str, Priority]]:
        self.added.clear()
        self.handlers.primary(self.watch, event, obj)
        return self.added


CHANGE = [("default/one", Priority.CHANGE)]


@pytest.mark.parametrize(
    ("second", "news"),
    [
        pytest.param(cr(version="2"), False, id="status-or-metadata"),
        pytest.param(cr(version="2", labels={"a": "b"}, annotations={"c": "d"}), False, id="labels-and-annotations"),
        pytest.param(cr(generation=2), True, id="spec"),
        pytest.param(cr(uid="another"), True, id="another-object"),
        pytest.param(cr(deletionTimestamp="2026-01-01T00:00:00Z"), True, id="deletion"),
    ],
)
def test_what_is_news_of_a_cr(second: dict[str, Any], news: bool) -> None:
    seen = Seen()
    assert seen.primary("ADDED", cr()) == CHANGE
    assert seen.primary("MODIFIED", second) == (CHANGE if news else [])
    # Listed anew after a disconnect.
    assert seen.primary(None, second) == []


def test_a_cr_that_waits_is_handed_out_once_as_it_is_by_then() -> None:
    seen = Seen()
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.primary("ADDED", cr())
    seen.primary("MODIFIED", cr(version="2"))
    assert seen.handlers.pop_delivered(request) == cr(version="2")
    # What is no news is not kept, and what is gone is not handed out.
    seen.primary("MODIFIED", cr(version="3"))
    assert seen.handlers.pop_delivered(request) is None
    seen.primary("MODIFIED", cr(generation=2))
    seen.primary("DELETED", cr(generation=2))
    assert seen.handlers.pop_delivered(request) is None


def test_of_thousands_of_crs_that_wait_not_all_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.control.handlers._MOST_DELIVERED", 2)
    seen = Seen()
    requests = [Request(seen.watch, ObjectKey("default", name)) for name in ("one", "two", "three")]
    for request in requests:
        seen.primary(None, cr(request.key.name))
    # Those that are kept stay as they are now, and the others are read when their turn comes.
    seen.primary("MODIFIED", cr("one", generation=2))
    seen.primary("MODIFIED", cr("three", generation=2))
    one, two, three = (seen.handlers.pop_delivered(request) for request in requests)
    assert (one, two, three) == (cr("one", generation=2), cr("two"), None)
    seen.primary("MODIFIED", cr("three", generation=3))
    assert seen.handlers.pop_delivered(requests[2]) == cr("three", generation=3)


def test_annotations_are_news_where_the_watch_asks_for_them() -> None:
    seen = Seen(watch_annotations=True)
    seen.primary("ADDED", cr())
    assert seen.primary("MODIFIED", cr(annotations={"a": "b"})) == CHANGE
    assert seen.primary("MODIFIED", cr(annotations={"a": "b"}, labels={"c": "d"})) == []


def test_a_dry_run_wanted_or_no_longer_is_news() -> None:
    seen = Seen(allow_annotations=frozenset({"dry-run"}))
    seen.primary("ADDED", cr())
    assert seen.primary("MODIFIED", cr(annotations={"rolerunner.io/dry-run": "true"})) == CHANGE
    assert seen.primary("MODIFIED", cr()) == CHANGE


def test_a_dry_run_that_is_not_allowed_is_no_news() -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    assert seen.primary("MODIFIED", cr(annotations={"rolerunner.io/dry-run": "true"})) == []


@pytest.mark.parametrize(
    ("change", "news"),
    [
        pytest.param({}, False, id="version"),
        pytest.param({"status": {"phase": "Active", "heartbeat": 7}}, False, id="status"),
        pytest.param({"metadata": {"managedFields": [{"time": "now"}]}}, False, id="managed-fields"),
        pytest.param({"metadata": {"finalizers": ["example.com/mine"]}}, False, id="finalizers"),
        pytest.param({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}}, False, id="bookkeeping"),
        pytest.param({"data": {"a": "b"}}, True, id="data"),
        pytest.param({"spec": {"replicas": 2}}, True, id="spec"),
        pytest.param({"metadata": {"labels": {"a": "b"}}}, True, id="labels"),
        pytest.param({"apiVersion": "v1", "kind": "Thing"}, False, id="kind-that-items-of-lists-lack"),
    ],
)
def test_what_is_news_of_a_cr_without_a_generation(change: dict[str, Any], news: bool) -> None:
    seen = Seen()
    seen.primary("ADDED", cr(generation=None))
    metadata = {**cr(generation=None, version="2")["metadata"], **change.get("metadata", {})}
    second = {**change, "metadata": metadata}
    assert seen.primary("MODIFIED", second) == (CHANGE if news else [])
    assert seen.primary(None, second) == []


def test_a_deletion_is_news_once_and_the_name_may_come_back() -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    assert seen.primary("DELETED", cr()) == CHANGE
    assert seen.primary("DELETED", cr()) == []
    assert seen.primary("ADDED", cr()) == CHANGE


def test_what_was_there_at_the_start_waits_and_what_is_new_does_not() -> None:
    seen = Seen()
    old = {**cr(), "status": {"conditions": [{"type": "Running"}]}}
    assert seen.primary(None, old) == [("default/one", Priority.PERIODIC)]
    assert 0 <= seen.delays[-1] <= 1
    assert seen.primary(None, cr("two")) == [("default/two", Priority.CHANGE)]
    assert seen.delays[-1] == 0


def test_what_was_changed_while_no_runner_was_there_does_not_wait_for_the_rest() -> None:
    seen, conditions = Seen(), [{"type": "Running"}]
    for name, status, priority in (
        ("same", {"conditions": conditions, "observedGeneration": 1}, Priority.PERIODIC),
        ("changed", {"conditions": conditions, "observedGeneration": 0}, Priority.CHANGE),
        ("odd", {"conditions": conditions, "observedGeneration": "1"}, Priority.CHANGE),
        ("unknown", {"conditions": conditions}, Priority.PERIODIC),
        ("new", {"observedGeneration": 1}, Priority.CHANGE),
    ):
        assert seen.primary(None, {**cr(name), "status": status}) == [(f"default/{name}", priority)]
    deleted = {**cr("deleted", deletionTimestamp="2026-01-01T00:00:00Z"), "status": {"conditions": conditions}}
    assert seen.primary(None, deleted) == [("default/deleted", Priority.CHANGE)]


def test_a_cr_that_comes_into_a_shard_was_anothers_before() -> None:
    seen = Seen()
    known = {**cr(), "status": {"conditions": [{"type": "Running"}]}}
    # Without shards it was created with its status.
    assert seen.primary("ADDED", known) == CHANGE
    seen.handlers = Handlers([seen.watch], seen._add, lambda request, event, obj: None)
    assert seen.primary("ADDED", known) == [("default/one", Priority.PERIODIC)]
    assert seen.handlers.pop_cause(seen.request()) == "given to this shard"
    # It is read when it is run, as it may be another's again.
    assert seen.handlers.pop_delivered(seen.request()) is None
    assert seen.primary("ADDED", cr("two")) == [("default/two", Priority.CHANGE)]
    assert seen.handlers.pop_cause(seen.request("two")) == "created"


def test_a_cr_that_is_let_go_to_another_shard_is_forgotten() -> None:
    taken: Taken | None = None
    events: list[str | None] = []

    def takes(request: Request, event: str | None, obj: object) -> Taken | None:
        events.append(event)
        return taken

    seen = Seen(related=())
    seen.handlers = Handlers([seen.watch], seen._add, takes)
    assert seen.primary("ADDED", cr()) == CHANGE
    # What is from before changes nothing.
    taken = Taken.OLD
    assert seen.primary("MODIFIED", cr(generation=2)) == []
    assert seen.handlers.has_observed(seen.request())
    taken = Taken.DRAINING
    assert seen.primary("MODIFIED", cr(generation=2)) == []
    assert seen.handlers.pop_delivered(seen.request()) is None
    # It leaves the watch, and nothing is to be cleared up here.
    assert seen.primary("DELETED", cr(generation=2)) == []
    taken = None
    assert seen.primary("ADDED", cr(generation=2)) == CHANGE
    # That it left may have been missed, and a list tells.
    events.clear()
    seen.handlers.listed(seen.watch, "", set())
    assert events == ["DELETED"]


def test_a_selector_leaves_out() -> None:
    seen = Seen(selector=Selector((Requirement("mine", "Exists", ()),)))
    assert seen.primary("ADDED", cr()) == []
    assert seen.primary("MODIFIED", cr(labels={"mine": ""})) == CHANGE
    assert seen.primary("MODIFIED", cr()) == []
    assert seen.primary("MODIFIED", cr(labels={"mine": ""})) == CHANGE


def owned(uid: str = "uid-one", *, version: str = "1", **more: Any) -> dict[str, Any]:
    reference = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "one", "uid": uid}
    metadata = {"name": "x", "namespace": "default", "resourceVersion": version, "ownerReferences": [reference]}
    return {"metadata": {**metadata, **more.pop("metadata", {})}, "spec": {"a": 1}, **more}


def claim(**spec: Any) -> dict[str, Any]:
    return {**owned(), "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": spec}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return owned(spec=value)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        pytest.param(None, owned(), False, id="created"),
        pytest.param(owned(), None, True, id="deleted"),
        pytest.param(owned(), owned(version="2", status={"x": 1}), False, id="status"),
        pytest.param(owned(), owned(version="2", metadata={"managedFields": [1]}), False, id="managed-fields"),
        pytest.param(
            owned(), owned(metadata={"annotations": {"deployment.kubernetes.io/revision": "1"}}), False, id="bookkeeping"
        ),
        *(
            pytest.param(owned(), owned(metadata={"annotations": {name: "1"}}), False, id=name)
            for name in (
                "autoscaling.alpha.kubernetes.io/current-metrics",
                "control-plane.alpha.kubernetes.io/leader",
                "pv.kubernetes.io/bind-completed",
                "volume.beta.kubernetes.io/storage-provisioner",
                "volume.kubernetes.io/selected-node",
            )
        ),
        pytest.param(claim(), claim(volumeName="pvc-1"), False, id="bound"),
        pytest.param(claim(), claim(volumeName="pvc-1", size=2), True, id="bound-and-changed"),
        pytest.param(owned(), owned(spec={"a": 1, "volumeName": "x"}), True, id="field-of-the-same-name"),
        pytest.param(nested(900), nested(900), False, id="deep"),
        pytest.param(nested(90_000), nested(90_000), True, id="deeper-than-is-compared"),
        pytest.param(owned(), owned(metadata={"annotations": {"mine": "1"}}), True, id="annotation"),
        pytest.param(owned(), owned(spec={"a": 2}), True, id="spec"),
        pytest.param(owned(), owned(data={"a": "2"}), True, id="data"),
    ],
)
def test_what_is_news_of_a_dependent(before: dict[str, Any] | None, after: dict[str, Any] | None, changed: bool) -> None:
    assert dependent_changed(before, after) is changed


def test_a_dependent_requeues_its_owner() -> None:
    seen = Seen()
    seen.handlers.changed(owned(), None)
    assert seen.added == []
    seen.primary("ADDED", cr())
    seen.added.clear()
    seen.handlers.changed(owned(), None)
    seen.handlers.changed(owned(), {**owned(), "metadata": {"name": "x", "namespace": "default"}})
    assert seen.added == [("default/one", Priority.DEPENDENT)] * 2


def test_another_kind_of_the_same_name_does_not() -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    seen.added.clear()
    other = owned()
    other["metadata"]["ownerReferences"][0]["apiVersion"] = "other.com/v1"
    seen.handlers.changed(other, None)
    assert seen.added == []


def test_a_cluster_scoped_owner_is_found_from_a_namespace() -> None:
    seen = Seen()
    seen.primary("ADDED", {"metadata": {"name": "one", "uid": "uid-one", "generation": 1}})
    seen.added.clear()
    seen.handlers.changed(owned(), None)
    assert seen.added == [("one", Priority.DEPENDENT)]


def test_without_dependents_none_counts() -> None:
    seen = Seen(watch_dependents=False)
    seen.primary("ADDED", cr())
    seen.added.clear()
    seen.handlers.changed(owned(), None)
    assert seen.added == []


@pytest.mark.parametrize(
    ("options", "namespace", "counts"),
    [
        pytest.param({}, "other", True, id="in another namespace"),
        pytest.param({}, "", False, id="cluster-scoped"),
        pytest.param({"watch_cluster_scoped": True}, "", True, id="cluster-scoped, asked for"),
        pytest.param({"blacklist": frozenset({GroupVersionKind("", "v1", "ConfigMap")})}, "other", False, id="blacklisted"),
        pytest.param(
            {"blacklist": frozenset({GroupVersionKind("", "v1", "Secret")})}, "other", True, id="another is blacklisted"
        ),
    ],
)
def test_what_another_watch_had_watched_counts_only_where_it_is_wanted(
    options: dict[str, Any], namespace: str, counts: bool
) -> None:
    seen = Seen(**options)
    seen.primary("ADDED", cr())
    seen.added.clear()
    marks = {PRIMARY_RESOURCE: "default/one", PRIMARY_RESOURCE_TYPE: "Thing.example.com"}
    metadata = {"name": "x", "namespace": namespace, "annotations": marks}
    seen.handlers.changed({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, None)
    assert seen.added == ([("default/one", Priority.DEPENDENT)] if counts else [])


def test_what_the_crs_own_run_wrote_is_no_news_to_it() -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    seen.added.clear()
    before, by_the_run, by_others = (
        owned(metadata={"uid": "uid-x", "resourceVersion": version}, data={"a": version}) for version in "123"
    )
    with seen.handlers.own_writes.of_run(Request(seen.watch, ObjectKey("default", "one"))) as wrote:
        wrote("uid-x", "1", "2")
        seen.handlers.changed(before, by_the_run)
    assert seen.added == []
    seen.handlers.changed(by_the_run, by_others)
    assert seen.added == ONE


def test_the_request_names_the_watch_and_the_cr() -> None:
    request = Request(THING, ObjectKey("default", "one"))
    assert request.fields == {"kind": "Thing", "namespace": "default", "cr": "one"}
    assert THING.gvk == GroupVersionKind("example.com", "v1", "Thing")


def secret(name: str = "key", **metadata: Any) -> dict[str, Any]:
    fields = {"name": name, "namespace": "default", "resourceVersion": "1", **metadata}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": fields}


SECRET = GroupVersionKind("", "v1", "Secret")


def seen_with(mapper: Mapper, **options: Any) -> Seen:
    """Two CRs, `one` and `two`, of a watch that has Secrets mapped to it."""
    seen = Seen(related=(Related(gvk=SECRET, mapper=mapper, **options),))
    for name in ("one", "two"):
        seen.primary("ADDED", {**cr(name), "spec": {"secret": f"key-{name}"}})
    seen.added.clear()
    return seen


ONE = [("default/one", Priority.DEPENDENT)]
TWO = [("default/two", Priority.DEPENDENT)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(None, secret(labels={"cr": "one"}), ONE, id="created"),
        pytest.param(secret(labels={"cr": "one"}), None, ONE, id="deleted"),
        pytest.param(secret(labels={"cr": "one"}), {**secret(labels={"cr": "one"}), "data": {}}, ONE, id="changed"),
        pytest.param(secret(labels={"cr": "one"}), {**secret(labels={"cr": "one"}), "status": {}}, ONE, id="status"),
        pytest.param(secret(labels={"cr": "one"}), secret(labels={"cr": "one"}, resourceVersion="2"), [], id="same"),
        pytest.param(secret(labels={"cr": "one"}), secret(labels={"cr": "two"}), ONE + TWO, id="moved"),
        pytest.param(None, secret(), [], id="of-none"),
        pytest.param(None, secret(labels={"cr": "three"}), [], id="of-nobody-known"),
        pytest.param(None, {**secret(labels={"cr": "one"}), "kind": "Other"}, [], id="other-kind"),
    ],
)
def test_a_related_object_requeues_crs(
    before: dict[str, Any] | None, after: dict[str, Any] | None, expected: list[tuple[str, Priority]]
) -> None:
    seen = seen_with(by_label("cr"))
    seen.handlers.changed(before, after)
    assert sorted(seen.added) == expected


def test_where_the_object_is_that_a_cause_names_is_known_as_long_as_the_cause() -> None:
    seen = seen_with(by_label("cr"))
    request = next(request for request in seen.handlers._observed if request.key.name == "one")
    seen.handlers.pop_cause(request)
    seen.handlers.changed(None, secret(labels={"cr": "one"}))
    assert seen.handlers.cause_namespace(request) == "default"
    seen.handlers.pop_cause(request)
    assert seen.handlers.cause_namespace(request) is None
    seen.handlers.changed(None, secret(labels={"cr": "one"}))
    seen.handlers.requeue(request, "asked for by ann")
    assert seen.handlers.cause_namespace(request) is None


def test_a_related_objects_labels_choose() -> None:
    seen = seen_with(by_label("cr"), selector=Selector((Requirement("tier", "Exists", ()),)))
    seen.handlers.changed(None, secret(labels={"cr": "one"}))
    assert seen.added == []
    seen.handlers.changed(None, secret(labels={"cr": "one", "tier": "front"}))
    assert seen.added == ONE


def test_an_expression_sees_the_crs_as_they_are_now() -> None:
    seen = seen_with(by_expression("crs | selectattr('spec.secret', 'eq', object.metadata.name)"))
    seen.handlers.changed(None, secret("key-two"))
    assert seen.added == TWO
    seen.primary("MODIFIED", {**cr("two", generation=2), "spec": {"secret": "other"}})
    seen.added.clear()
    seen.handlers.changed(None, secret("key-two"))
    assert seen.added == []
    seen.handlers.changed(None, secret("other"))
    assert seen.added == TWO
    seen.primary("DELETED", cr("two", generation=2))
    seen.added.clear()
    seen.handlers.changed(None, secret("other"))
    assert seen.added == []


def test_an_expression_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    seen = seen_with(by_expression("1 / 0"))
    seen.handlers.changed(None, secret())
    seen.handlers.changed(None, secret("another"))
    assert seen.added == []
    assert [record.message for record in caplog.records] == ["A related object could not be mapped to CRs"]


def test_a_cr_that_is_gone_is_forgotten_even_if_its_deletion_was_missed() -> None:
    seen = seen_with(by_label("cr"))
    seen.handlers.forget(Request(seen.watch, ObjectKey("default", "one")), None)
    seen.handlers.changed(None, secret(labels={"cr": "one"}))
    assert seen.added == []
    assert seen.primary("ADDED", cr()) == CHANGE


def test_the_late_deletion_of_another_does_not_take_the_new_cr_with_it() -> None:
    seen = seen_with(by_label("cr"))
    seen.primary("ADDED", {**cr(uid="new"), "spec": {}})
    assert seen.primary("DELETED", cr()) == []
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.handlers.forget(request, "uid-one")
    assert seen.handlers.pop_delivered(request) is not None
    seen.added.clear()
    seen.handlers.changed(None, secret(labels={"cr": "one"}))
    assert seen.added == ONE
    assert len(seen.handlers._crs[seen.watch]) == 2
    seen.handlers.forget(request, "new")
    seen.added.clear()
    seen.handlers.changed(secret(labels={"cr": "one"}), None)
    assert seen.added == []


def test_an_annotation_counts_beside_a_reference_to_a_namesake() -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    seen.added.clear()
    marks = {PRIMARY_RESOURCE: "default/one", PRIMARY_RESOURCE_TYPE: "Thing.example.com"}
    reference = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "one", "uid": "uid-of-the-namesake"}
    metadata = {"name": "x", "namespace": "other", "annotations": marks, "ownerReferences": [reference]}
    before = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    seen.handlers.changed(before, {**before, "data": {"a": "b"}})
    assert seen.added == ONE


@pytest.mark.parametrize(
    ("uid", "after", "expected"),
    [
        pytest.param("uid-one", owned(spec={"a": 2}), ONE, id="its-own"),
        pytest.param("earlier", owned("earlier", spec={"a": 2}), [], id="of-another-uid"),
        # The garbage collector takes it, though the new one's role may have found it there.
        pytest.param("earlier", None, ONE, id="of-another-uid-gone"),
    ],
)
def test_the_uid_decides_whose_a_dependent_is(
    uid: str, after: dict[str, Any] | None, expected: list[tuple[str, Priority]]
) -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    seen.added.clear()
    seen.handlers.changed(owned(uid), after)
    assert seen.added == expected


def test_what_a_list_lacks_is_gone() -> None:
    seen = Seen()
    for name in ("one", "two"):
        seen.primary("ADDED", cr(name))
    seen.added.clear()
    seen.handlers.listed(seen.watch, "other", set())
    assert seen.added == []
    seen.handlers.listed(seen.watch, "default", {ObjectKey("default", "two")})
    assert seen.added == CHANGE
    seen.added.clear()
    seen.handlers.listed(seen.watch, "", {ObjectKey("default", "two")})
    assert seen.added == []


@pytest.mark.parametrize(
    ("obj", "kept"),
    [
        pytest.param(owned(), True, id="by-reference"),
        pytest.param(
            secret(annotations={PRIMARY_RESOURCE: "x/y", PRIMARY_RESOURCE_TYPE: "Thing.example.com"}), True, id="mark"
        ),
        pytest.param(secret(annotations={PRIMARY_RESOURCE: "x/y", PRIMARY_RESOURCE_TYPE: "Other"}), False, id="other-mark"),
        pytest.param(secret(ownerReferences=[{"apiVersion": "v1", "kind": "Thing", "name": "x"}]), False, id="other-owner"),
        pytest.param(secret(), False, id="nobodys"),
    ],
)
def test_what_is_kept_in_full(obj: dict[str, Any], kept: bool) -> None:
    assert Seen().handlers.keeps(obj) is kept
    assert seen_with(by_label("cr")).handlers.keeps({**obj, "apiVersion": "v1", "kind": "Secret"})


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        pytest.param(owned(), None, "ConfigMap default/x deleted", id="deleted"),
        pytest.param(
            owned(metadata={"labels": {"shard.alpha.sharding.timebertt.dev/ring": "one"}}),
            None,
            "ConfigMap default/x deleted or given to another shard",
            id="deleted or moved",
        ),
        pytest.param(owned(), owned(spec={"a": 2}, data={}), "ConfigMap default/x changed: spec.a, data", id="fields"),
        pytest.param(
            owned(data={}),
            owned(data={str(number) * 200: "" for number in range(9)}),
            "ConfigMap default/x changed: " + ", ".join("data." + str(number) * 75 for number in range(5)) + " and more",
            id="many",
        ),
    ],
)
def test_the_cause_of_a_reconcile_is_known(before: dict[str, Any], after: dict[str, Any] | None, cause: str) -> None:
    seen = Seen(allow_annotations=frozenset({"dry-run"}))
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.primary("ADDED", cr())
    assert [seen.handlers.pop_cause(request) for _ in range(2)] == ["created", ""]
    seen.handlers.changed({**before, "kind": "ConfigMap"}, after and {**after, "kind": "ConfigMap"})
    assert seen.handlers.pop_cause(request) == cause
    for change, expected in (
        ({"generation": 2}, "spec changed"),
        ({"generation": 2, "annotations": {"rolerunner.io/dry-run": "true"}}, "annotations changed"),
        ({"generation": 2, "uid": "new"}, "created again"),
        ({"generation": 2, "uid": "new", "deletionTimestamp": "now"}, "deletion asked for"),
    ):
        seen.primary("MODIFIED", cr(**change))  # type: ignore[arg-type]
        assert seen.handlers.pop_cause(request) == expected


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ({"size": 1, "image": {"a": 1, "b": 2}}, {"size": 2, "image": {"b": 2, "a": 1}}, "spec changed: size"),
        ({"size": 1}, {"size": 1, "image": "b"}, "spec changed: image"),
        ({"size": 1, "image": "b"}, {"size": 1}, "spec changed: image"),
        (dict.fromkeys("abcdef", 1), dict.fromkeys("abcdef", 2), "spec changed: a, b, c, d, e and more"),
        ({str(n): 1 for n in range(1000)}, {str(n): 2 for n in range(1000)}, "spec changed"),
        ({"size": 1}, ["odd"], "spec changed"),
        ({"size": 1}, {"size": deep(500)}, "spec changed: size"),
        ({"size": 1}, {"size": deep(20_000)}, "spec changed"),
    ],
    ids=["changed", "added", "removed", "some", "very many", "no object", "deep", "too deep"],
)
def test_the_fields_of_a_cr_that_changed_are_known(before: Any, after: Any, cause: str) -> None:
    seen = Seen()
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.primary("ADDED", {**cr(), "spec": before})
    seen.primary("MODIFIED", {**cr(generation=2), "spec": after})
    assert seen.handlers.pop_cause(request) == cause
    seen.primary("DELETED", cr(generation=2))
    assert not seen.handlers._spec_fields


def test_a_mapper_that_gives_what_is_no_key_is_told_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    key: Any = ObjectKey("default", ["one"])  # type: ignore[arg-type]
    seen = seen_with(lambda obj, crs: [key])
    seen.handlers.changed(None, secret())
    seen.handlers.changed(None, secret("another"))
    assert [record.error for record in caplog.records] == ["TypeError"]  # type: ignore[attr-defined]


def test_what_others_did_during_a_run_is_a_cause_of_the_next() -> None:
    seen = Seen()
    seen.primary("ADDED", cr())
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.handlers.pop_cause(request)
    seen.added.clear()
    with seen.handlers.own_writes.of_run(request):
        seen.handlers.own_writes.consume(request, VersionChange("a", "1", "2", "ConfigMap", ObjectKey("other", "x")))
        assert seen.handlers.pop_cause(request) == ""
        assert seen.handlers.cause_namespace(request) is None
    assert seen.added == ONE
    assert seen.handlers.cause_namespace(request) == "other"
    # Without one, an outcome that could not be written yet would stand for the run.
    assert seen.handlers.pop_cause(request) == "ConfigMap other/x changed during the run"


def test_a_change_of_the_cr_during_a_run_is_the_cause_of_the_next_whatever_else_changed() -> None:
    seen = Seen()
    seen.primary("ADDED", {**cr(), "spec": {"size": 1}})
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.handlers.pop_cause(request)
    with seen.handlers.own_writes.of_run(request):
        seen.primary("MODIFIED", {**cr(generation=2), "spec": {"size": 2}})
        seen.handlers.own_writes.consume(request, VersionChange("a", "1", "2", "ConfigMap", ObjectKey("default", "x")))
        seen.added.clear()
    assert seen.added == ONE
    assert seen.handlers.pop_cause(request) == "spec changed: size"


def test_a_change_of_the_cr_is_the_cause_whatever_else_changes_before_the_reconcile_begins() -> None:
    seen = Seen()
    seen.primary("ADDED", {**cr(), "spec": {"size": 1}})
    request = Request(seen.watch, ObjectKey("default", "one"))
    seen.handlers.pop_cause(request)
    before, after = ({**owned(data={"a": a}), "kind": "ConfigMap"} for a in "12")
    seen.primary("MODIFIED", {**cr(generation=2), "spec": {"size": 2}})
    seen.handlers.changed(before, after)
    assert seen.handlers.cause(request) == "spec changed: size"
    seen.handlers.requeue(request, "asked for by ann")
    seen.handlers.changed(after, before)
    assert (seen.handlers.cause_namespace(request), seen.handlers.pop_cause(request)) == (None, "asked for by ann")
    for each, others in ((before, after), (after, None)):
        seen.handlers.changed(each, others)
    assert seen.handlers.pop_cause(request) == "ConfigMap default/x deleted"
    seen.handlers.changed(before, after)
    seen.primary("MODIFIED", {**cr(generation=3), "spec": {"size": 3}})
    assert seen.handlers.pop_cause(request) == "spec changed: size"


def test_what_has_changed_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    looked: list[Any] = []

    def what_changed(before: Any, after: Any) -> str:
        looked.append(before)
        return "it has changed"

    monkeypatch.setattr(handlers, "_describe_change", what_changed)
    names = [f"cr-{number}" for number in range(5)]
    dependent = owned()
    owner = dependent["metadata"]["ownerReferences"][0]
    dependent["metadata"]["ownerReferences"] = [{**owner, "name": name, "uid": f"uid-{name}"} for name in names]
    for name in names:
        seen.primary("ADDED", cr(name))
    seen.added.clear()
    seen.handlers.changed(dependent, None)
    assert {key for key, _ in seen.added} == {f"default/{name}" for name in names}
    assert looked == [dependent]


def test_a_kind_s_counters_begin_at_zero() -> None:
    """A rate does not see the first count of a series that was not there before."""
    Seen(gvk=GroupVersionKind("example.com", "v1", "Quiet"))
    shown = metrics.exposition().decode()
    for labels in ('result="succeeded"', 'result="failed"'):
        assert f'ansible_operator_reconcile_result{{GVK="example.com/v1, Kind=Quiet",{labels}}} 0.0' in shown
    assert 'rolerunner_run_timeouts_total{GVK="example.com/v1, Kind=Quiet"} 0.0' in shown


def test_a_metric_counts_the_crs() -> None:
    seen = Seen(selector=Selector((Requirement("mine", "Exists", ()),)))
    for name, labels in (("one", {"mine": ""}), ("two", {"mine": ""}), ("another's", {})):
        seen.primary("ADDED", cr(name, labels=labels))
    line = 'rolerunner_custom_resources{GVK="example.com/v1, Kind=Thing"}'
    assert f"{line} 2.0" in metrics.exposition().decode()
    seen.primary("DELETED", cr("one", labels={"mine": ""}))
    assert f"{line} 1.0" in metrics.exposition().decode()
