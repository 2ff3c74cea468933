"""Which reads a store answers, and how."""

from __future__ import annotations

import json
from typing import Any

import pytest
from multidict import MultiDict

from runner.kube.client import ApiClient
from runner.kube.discovery import Resource
from runner.kube.informer import Informer
from runner.proxy.cached_reads import field_selector, from_store
from runner.proxy.requestinfo import parse
from runner.proxy.sessions import Session
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner
from runner.resource.selectors import label_selector

CONFIG_MAP = Resource(GroupVersionKind("", "v1", "ConfigMap"), "configmaps", True, frozenset({"list", "watch"}))
ONE = "/api/v1/namespaces/here/configmaps/one"
ALL = "/api/v1/namespaces/here/configmaps"
EVERYWHERE = "/api/v1/configmaps"


def config_map(name: str, namespace: str = "here", **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": labels, "resourceVersion": "7"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ü": '"'}}


@pytest.fixture
def informer() -> Informer:
    made = Informer(ApiClient.__new__(ApiClient), CONFIG_MAP, "", lambda before, after: None)
    objects = [
        config_map("two", tier="front"),
        config_map("one", app="x", tier="back"),
        config_map("one", "a"),
        config_map("far", "a-b"),
    ]
    made.store = {ObjectKey.of(obj): obj for obj in objects}
    made.version, made.list_kind, made.fresh = "9", "ConfigMapList", True
    return made


@pytest.fixture
def session() -> Session:
    owner = Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("here", "one"), "uid")
    return Session(owner=owner, inject_owner=True, on_dependent=lambda *_: None)


class Asking:
    """A session's reads of the informer's store."""

    def __init__(self, informer: Informer, session: Session) -> None:
        self.informer = informer
        self.session = session

    def __call__(self, path: str, *, accept: str | None = None, query: tuple[tuple[str, str], ...] = ()) -> Any:
        """The answer's JSON; None if it is the server's to answer."""

        def covering(api_version: str, plural: str, namespace: str) -> Informer | None:
            return self.informer if (api_version, plural) == ("v1", "configmaps") else None

        content = from_store(parse(path), MultiDict(query), accept, session=self.session, covering=covering)
        return content and json.loads(content)

    def names(self, path: str, **query: str) -> list[str] | None:
        answer = self(path, query=tuple(query.items()))
        return answer and [str(ObjectKey.of(item)) for item in answer["items"]]


@pytest.fixture
def asking(informer: Informer, session: Session) -> Asking:
    return Asking(informer, session)


def test_an_object_is_given_as_it_is(asking: Asking) -> None:
    assert asking(ONE) == config_map("one", app="x", tier="back")


def test_a_list_says_how_far_it_has_come(asking: Asking) -> None:
    answer = asking(ALL)
    items = answer.pop("items")
    assert answer == {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}
    assert items == [config_map("one", app="x", tier="back"), config_map("two", tier="front")]
    # In etcd's order, where - comes before /.
    assert asking.names(EVERYWHERE) == ["a-b/far", "a/one", "here/one", "here/two"]


@pytest.mark.parametrize(
    "path",
    [
        ONE + "x",
        ONE + "/status",
        "/api/v1/namespaces/here/pods/one/log",
        "/api/v1/namespaces/here/secrets/one",
        "/api/v1/configmaps/one",
        "/api/v1/namespaces/here/configmaps/one%2Fstatus",
        "/api/v1/watch/configmaps",
        "/api/v1",
        "/version",
    ],
)
def test_what_is_no_object_of_the_store_is_the_servers(asking: Asking, path: str) -> None:
    assert asking(path) is None


@pytest.mark.parametrize("path", [ONE, ALL])
@pytest.mark.parametrize(
    "query",
    [
        (("watch", "true"),),
        (("watch", ""),),
        (("limit", ""),),
        (("limit", "500"),),
        (("continue", "x"),),
        (("resourceVersion", "0"),),
        (("resourceVersionMatch", "Exact"),),
        (("pretty", "true"),),
        (("timeoutSeconds", "5"),),
        (("anything", "new"),),
        (("labelSelector", ""), ("labelSelector", "a=b")),
    ],
)
def test_what_is_not_understood_is_the_servers(asking: Asking, path: str, query: tuple[tuple[str, str], ...]) -> None:
    assert asking(path, query=query) is None
    nothing = (("fieldSelector", ""), ("labelSelector", ""))
    assert asking(path, query=nothing) is not None


@pytest.mark.parametrize(
    ("accept", "served"),
    [
        (None, True),
        ("*/*", True),
        ("application/json", True),
        ("application/json, application/yaml", True),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", False),
        ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json", False),
        ("application/vnd.kubernetes.protobuf,application/json", False),
        ("application/json;q=0.5,application/yaml", False),
        ("application/yaml", False),
    ],
)
def test_only_plain_json_is_given(asking: Asking, accept: str | None, served: bool) -> None:
    assert (asking(ONE, accept=accept) is not None) is served


def test_a_store_that_may_be_old_is_not_read(asking: Asking) -> None:
    asking.informer.fresh = False
    assert asking(ONE) is None
    assert asking(ALL) is None


def test_a_blacklisted_kind_is_not_read_from_the_store(asking: Asking, session: Session) -> None:
    asking.session = Session(
        owner=session.owner, inject_owner=True, on_dependent=lambda *_: None, blacklist=frozenset({CONFIG_MAP.gvk})
    )
    assert asking(ONE) is None


def test_a_run_reads_what_it_wrote(asking: Asking, session: Session) -> None:
    session.writes.add(parse("/api/v1/namespaces/there/configmaps/other"), "10")
    assert asking(ONE) is not None
    session.writes.add(parse(ONE), "10")
    assert asking(ONE) is None
    assert asking(ALL) is None
    asking.informer.version = "10"
    assert asking(ONE) is not None
    assert asking(EVERYWHERE) is not None
    session.writes.add(parse(ONE), None)
    asking.informer.version = "11"
    assert asking(ONE) is None
    assert asking(EVERYWHERE) is None


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", ["here/one", "here/two"]),
        ("tier", ["here/one", "here/two"]),
        ("!app", ["here/two"]),
        ("! app", ["here/two"]),
        ("app=x", ["here/one"]),
        ("app==x,tier = back", ["here/one"]),
        ("app=", []),
        ("app!=x", ["here/two"]),
        ("tier in (back, front)", ["here/one", "here/two"]),
        ("tier in (front),!app", ["here/two"]),
        ("app notin (x,y)", ["here/two"]),
        ("app.kubernetes.io/name=x", []),
        # The API server says what is wrong with these, or means something else by them.
        ("app=x,", None),
        ("=x", None),
        ("app in x", None),
        ("tier>1", None),
        ("-app", None),
        ("app=x y", None),
        ("a" * 64, None),
        ("app=" + "a" * 64, None),
        ("!app=x", None),
    ],
)
def test_label_selectors(asking: Asking, selector: str, names: list[str] | None) -> None:
    assert asking.names(ALL, labelSelector=selector) == names


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=one", ["a/one", "here/one"]),
        ("metadata.name==one,metadata.namespace=a", ["a/one"]),
        ("metadata.name=none", []),
        ("metadata.name!=one", None),
        ("status.phase=Running", None),
        ("metadata.name=one,status.phase=Running", None),
        ("metadata.name=one,metadata.name=two", None),
        (r"metadata.name=a\,b", None),
        ("metadata.name=", None),
    ],
)
def test_field_selectors(asking: Asking, selector: str, names: list[str] | None) -> None:
    assert asking.names(EVERYWHERE, fieldSelector=selector) == names


def test_a_namespace_may_be_asked_for_twice(asking: Asking) -> None:
    assert asking.names(ALL, fieldSelector="metadata.namespace=here,metadata.name=one") == ["here/one"]
    assert asking.names(ALL, fieldSelector="metadata.namespace=a") is None


def test_cluster_scoped_kinds_have_no_namespace_to_ask_for(asking: Asking) -> None:
    resource = Resource(CONFIG_MAP.gvk, "configmaps", False)
    asking.informer.resource = resource
    asking.informer.store = {ObjectKey("", "one"): {"metadata": {"name": "one"}}}
    assert asking("/api/v1/configmaps/one") == {"metadata": {"name": "one"}}
    assert asking(ONE) is None
    assert asking.names(EVERYWHERE, fieldSelector="metadata.name=one") == ["one"]
    assert asking.names(EVERYWHERE, fieldSelector="metadata.namespace=a") is None


def test_a_selector_that_is_none_selects_all() -> None:
    selector = label_selector("")
    assert selector is not None
    assert selector.matches({"metadata": {}})
    assert field_selector("") == {}


@pytest.mark.parametrize(
    ("path", "selector", "served"),
    [
        pytest.param(ALL, "", False, id="all-here"),
        pytest.param(ALL, "tier=back", True, id="of-labels-that-it-has-not"),
        pytest.param(ALL, "kind=foreign", False, id="of-labels-that-it-has"),
        pytest.param("/api/v1/namespaces/a/configmaps", "", True, id="elsewhere"),
        pytest.param(EVERYWHERE, "", False, id="everywhere"),
        pytest.param("/api/v1/namespaces/here/configmaps/foreign", "", False, id="by-name"),
    ],
)
def test_what_is_not_kept_in_full_is_the_servers(asking: Asking, path: str, selector: str, served: bool) -> None:
    asking.informer.others[ObjectKey("here", "foreign")] = {"kind": "foreign"}
    answer = asking(path, query=(("labelSelector", selector),) if selector else ())
    assert (answer is not None) is served


@pytest.mark.parametrize(
    ("path", "selector", "names"),
    [
        (ALL, "", None),
        (ALL, "app=x", None),
        (ALL, "tier in (back,front)", None),
        (ALL, "tier=back", ["here/one"]),
        (EVERYWHERE, "tier in (back),app=x", ["here/one"]),
    ],
)
def test_a_store_of_a_selector_has_no_list_that_is_wider(
    asking: Asking, path: str, selector: str, names: list[str] | None
) -> None:
    back = label_selector("tier=back")
    assert back is not None
    asking.informer.selector = back
    asking.informer.store = {key: obj for key, obj in asking.informer.store.items() if back.matches(obj)}
    assert asking.names(path, labelSelector=selector) == names
    assert asking(ONE) is not None
    # Another shard's, say.
    assert asking(ALL + "/two") is None
