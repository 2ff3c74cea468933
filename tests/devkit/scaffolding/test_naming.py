from typing import Any

import pytest

from devkit.scaffolding.naming import Api, plural_of
from runner.errors import ConfigurationError

GOOD: dict[str, Any] = {
    **{"domain": "example.com", "group": "cache", "version": "v1alpha1", "kind": "MemcachedBackup"},
    **{"plural": "", "namespaced": True},
}


def test_everything_is_called_after_the_kind() -> None:
    api = Api(**GOOD).checked([])
    assert (api.full_group, api.plural, api.singular) == ("cache.example.com", "memcachedbackups", "memcachedbackup")
    assert (api.name, api.dashed, api.variable) == (
        "memcachedbackup",
        "memcachedbackup",
        "_cache_example_com_memcachedbackup",
    )


def test_another_groups_kind_of_the_same_name_has_its_own_names() -> None:
    others = [{"group": "cache", "kind": "MemcachedBackup"}]
    api = Api(**{**GOOD, "group": "my-shop"}).checked(others)
    assert (api.name, api.dashed, api.plural) == ("my_shop_memcachedbackup", "my-shop-memcachedbackup", "memcachedbackups")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group": "cache.example.com"}, "--group 'cache.example.com': .* the domain example.com of PROJECT is added"),
        ({"group": "Cache"}, "--group 'Cache': write one word of a-z"),
        ({"group": ""}, "--group ''"),
        ({"group": "on"}, "--group 'on': YAML takes this word for something else than text; choose another"),
        ({"group": "7up"}, "--group '7up'"),
        ({"kind": "Null"}, "--kind 'Null': YAML takes"),
        ({"kind": "{}"}, "--kind '{}'"),
        ({"version": "v1beta"}, "--version 'v1beta': write v1, v1beta1"),
        ({"version": "1"}, "--version '1'"),
        ({"version": "v0"}, "--version 'v0'"),
        ({"kind": "memcached"}, "--kind 'memcached': write it in CamelCase, such as Memcached$"),
        ({"kind": "memcached-backup"}, "such as MemcachedBackup$"),
        ({"kind": "7-"}, "such as Memcached$"),
        ({"kind": "X" * 64}, "--kind"),
        ({"plural": "Memcacheds"}, "--plural 'Memcacheds': write it in lower case, such as memcachedbackups"),
    ],
    ids=lambda value: "=".join(*value.items())[:30] if isinstance(value, dict) else "",
)
def test_a_mistake_is_told_with_its_flag_and_the_remedy(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Api(**{**GOOD, **given}).checked([])


@pytest.mark.parametrize(
    ("kind", "plural"),
    [
        *[("Memcached", "memcacheds"), ("Proxy", "proxies"), ("Gateway", "gateways"), ("Address", "addresses")],
        *[("Status", "statuses"), ("Index", "indexes"), ("Batch", "batches"), ("MemcachedSettings", "memcachedsettings")],
        *[("Ingress", "ingresses"), ("NetworkPolicy", "networkpolicies")],
    ],
    ids=lambda word: word,
)
def test_plurals(kind: str, plural: str) -> None:
    assert plural_of(kind) == plural
    assert Api(**{**GOOD, "kind": kind}).checked([]).is_regular


def test_an_irregular_plural_can_be_given() -> None:
    api = Api(**{**GOOD, "kind": "Mouse", "plural": "mice"}).checked([])
    assert (api.plural, api.is_regular) == ("mice", False)
