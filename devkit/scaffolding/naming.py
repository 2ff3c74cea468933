"""The kind that `create api` adds, and the names derived from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import yaml

from runner.errors import ConfigurationError
from runner.resource.metadata import GroupVersionKind
from runner.resource.parameters import variable_name

# What Kubernetes takes as the name of a Service: narrower than a DNS label, and good for the other names as well.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_VERSION = re.compile(r"v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A kind of the project. `name` is that of its role, its playbook and its other files."""

    domain: str
    group: str
    version: str
    kind: str
    plural: str = ""
    namespaced: bool
    name: str = ""

    def checked(self, others: Iterable[Mapping[str, str]]) -> Api:
        """This kind with its plural and name, if its flags are valid. Raises ConfigurationError.

        `others` are the project's kinds so far, as PROJECT has them.
        """
        group, kind, plural = self.group, self.kind, self.plural
        for flag, word in (("--group", group), ("--kind", kind), ("--plural", plural)):
            check_word(flag, word)
        if not NAME.fullmatch(group):
            hint = f"; the domain {self.domain} of PROJECT is added to it" if "." in group else ""
            raise ConfigurationError(f"--group {group!r}: write one word of a-z, then also 0-9 and -, such as cache{hint}")
        if not _VERSION.fullmatch(self.version):
            raise ConfigurationError(f"--version {self.version!r}: write v1, v1beta1, v1alpha1 or a later number of these")
        if not _KIND.fullmatch(kind):
            hint = "".join(word[:1].upper() + word[1:] for word in re.findall("[A-Za-z0-9]+", kind)).lstrip("0123456789")
            raise ConfigurationError(f"--kind {kind!r}: write it in CamelCase, such as {hint or 'Memcached'}")
        if plural and not NAME.fullmatch(plural):
            raise ConfigurationError(f"--plural {plural!r}: write it in lower case, such as {plural_of(kind)}")
        # Another group's kind of the same name has a role by that name already.
        has_namesake = any(other.get("kind", "").lower() == kind.lower() for other in others)
        name = f"{group}_{kind}".replace("-", "_").lower() if has_namesake else kind.lower()
        return replace(self, plural=plural or plural_of(kind), name=name)

    @property
    def full_group(self) -> str:
        return f"{self.group}.{self.domain}"

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def dashed(self) -> str:
        return self.name.replace("_", "-")

    @property
    def is_regular(self) -> bool:
        return self.plural == plural_of(self.kind)

    @property
    def variable(self) -> str:
        """The Ansible variable that holds the whole object."""
        return variable_name(GroupVersionKind(self.full_group, self.version, self.kind))


def check_word(flag: str, word: str) -> None:
    """Raise ConfigurationError for `on`, `null` and the like, which YAML takes for text only in quotes."""
    try:
        is_text = isinstance(yaml.safe_load(word.lower() or "nothing"), str)
    except yaml.YAMLError:
        # It has characters for which there are better words.
        return
    if not is_text:
        raise ConfigurationError(f"{flag} {word!r}: YAML takes this word for something else than text; choose another")


def plural_of(kind: str) -> str:
    """The plural by the simple rules of English; a kind that ends with an s is one already, as MemcachedSettings."""
    word = kind.lower()
    if word.endswith(("ss", "us", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and not word.endswith(("ay", "ey", "iy", "oy", "uy")):
        return word[:-1] + "ies"
    return word if word.endswith("s") else word + "s"
