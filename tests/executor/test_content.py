"""What ansible-core finds here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from runner.errors import ConfigurationError
from runner.executor.content import KINDS, Answer, Content, Query, ask

ASKED = {
    Query("module", "debug"): "ansible.builtin.debug",
    Query("module", "ansible.builtin.include_tasks"): "ansible.builtin.include_tasks",
    Query("module", "k8s"): "kubernetes.core.k8s",
    Query("module", "operator_sdk.util.k8s_status"): "operator_sdk.util.k8s_status",
    Query("module", "k8s_status", ("operator_sdk.util",)): "operator_sdk.util.k8s_status",
    Query("module", "debug", ("operator_sdk.util",)): "ansible.builtin.debug",
    Query("module", "k8s_status"): "",
    Query("module", "nope"): "",
    Query("module", "nope.nope.nope"): "",
    Query("module", "include"): "",
    Query("filter", "upper"): "ansible.builtin.upper",
    Query("filter", "combine"): "ansible.builtin.combine",
    Query("filter", "json_query"): "community.general.json_query",
    Query("filter", "nope"): "",
    Query("filter", "a.b"): "",
    Query("test", "defined"): "ansible.builtin.defined",
    Query("test", "version"): "ansible.builtin.version",
    Query("test", "nope"): "",
    Query("lookup", "env"): "ansible.builtin.env",
    Query("lookup", "kubernetes.core.k8s"): "kubernetes.core.k8s",
    Query("lookup", "nope"): "",
    Query("role", "nope.nope.nope"): "",
    Query("role", "nope"): "",
}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return ask(ASKED, folder=tmp_path_factory.mktemp("project"), environ=_environ())


def _environ() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}


@pytest.mark.parametrize("query", ASKED, ids=lambda query: " ".join((query.kind, query.name, *query.collections)))
def test_names_are_found_as_a_task_would(query: Query, content: Content) -> None:
    # Short names of built-in ones may be told short.
    assert content.answers[query].resolved in (ASKED[query], ASKED[query].removeprefix("ansible.builtin."))
    assert query.kind in KINDS


def test_what_was_removed_says_so(content: Content) -> None:
    assert "include_tasks" in content.answers[Query("module", "include")].removed
    assert content.answers[Query("module", "nope")] == Answer()


def test_versions_collections_and_keywords(content: Content) -> None:
    assert content.core == metadata.version("ansible-core")
    assert content.minor == tuple(map(int, content.core.split(".")[:2]))
    assert content.collections["operator_sdk.util"].version == "0.5.0"
    assert content.keywords["task"] >= {"when", "loop", "listen", "local_action", "register"}
    assert content.keywords["block"] >= {"block", "rescue", "always"}
    assert content.keywords["play"] >= {"hosts", "roles", "user"}


def test_what_a_collection_stands_for(tmp_path: Path) -> None:
    """A name that leads to a collection that is not here."""
    folder = tmp_path / "collections/ansible_collections/my/own"
    (folder / "plugins/modules").mkdir(parents=True)
    (folder / "meta").mkdir()
    (folder / "meta/runtime.yml").write_text("plugin_routing: {modules: {thing: {redirect: other.kit.thing}}}\n")
    (folder / "galaxy.yml").write_text("version: 1.2.3\ndependencies: {other.kit: '*'}\n")
    query = Query("module", "my.own.thing")
    found = ask([query], folder=tmp_path, environ=_environ())
    assert found.answers[query] == Answer(redirect="other.kit.thing")
    assert found.collections["my.own"].version == "1.2.3"
    assert found.collections["my.own"].dependencies == ("other.kit",)


def test_an_ansible_that_does_not_start_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults\n")
    with pytest.raises(ConfigurationError, match="ansible-core cannot be started here: "):
        ask([], folder=tmp_path, environ=_environ())


def test_a_project_shadows_no_library(tmp_path: Path) -> None:
    for name in ("json.py", "yaml.py", "ansible.py", "runner.py"):
        (tmp_path / name).write_text("raise SystemExit(3)\n")
    assert ask([], folder=tmp_path, environ=_environ()).core
