"""The Go project's "advanced" project, put together from a checkout as its generator does it.

The generator (hack/generate/samples/ansible) scaffolds a project and then copies files and replaces texts. The scaffold is
the same for every project, so here that of another project is taken; the files and texts are the checkout's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

GENERATOR = Path("hack/generate/samples/ansible")
GROUP, VERSION = "test.example.com", "v1alpha1"
NAME = "advanced-molecule-operator"

# Of files that the generator copies: theirs, and the project's.
_COPIES = {
    "ansible.cfg": "ansible.cfg",
    "plugins": "plugins",
    "watches.yaml": "watches.yaml",
    "tasks": "molecule/default/tasks",
    "secret.yml": "playbooks/secret.yml",
    "inventory": "inventory",
    "playbooks/finalizerconcurrencyfinalizer.yml": "playbooks/finalizerconcurrencyfinalizer.yml",
    # Its Dockerfile installs it.
    "fixture_collection": ".ansible/collections/ansible_collections/operator_sdk/test_fixtures",
}

# What cannot stay as it stands. The Go project's image has ansible-core 2.18, in which a template with arithmetic was text.
ADAPTED = "playbooks/reconciliationtest.yml: a number becomes text by `| string`, as ansible-core 2.19 lets numbers be"
_NUMBER = "(configmap.resources.0.data.iterations|int) + 1"


def assemble(checkout: Path, *, like: Path, into: Path) -> Path:
    """The project, in the new folder `into`, with config/ and molecule/ after those of the project `like`."""
    source = (checkout / GENERATOR / "advanced_molecule.go").read_text()
    for folder in ("config", "molecule"):
        shutil.copytree(like / folder, into / folder)
    shutil.rmtree(into / "molecule/default/tasks")
    for theirs, ours in _COPIES.items():
        path = checkout / GENERATOR / "testdata" / theirs
        target = into / ours
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copy(path, target)
    kinds = [watch["kind"] for watch in yaml.safe_load((into / "watches.yaml").read_text()) if watch["group"] == GROUP]
    _playbooks(into, source)
    _samples(into, kinds)
    _config(into, source, kinds)
    _vault(into)
    return into


def _playbooks(project: Path, source: str) -> None:
    replaced = re.compile(
        r'filepath\.Join\(dir, "playbooks", "(\w+\.yml)"\),\s*(?:\w+|"(?:[^"\\]|\\.)*"),\s*(\w+)\)', re.DOTALL
    )
    for name, text in replaced.findall(source):
        adapted = _text(source, text).replace(f"{{{{ {_NUMBER} }}}}", f"{{{{ ({_NUMBER}) | string }}}}")
        (project / "playbooks" / name).write_text(adapted)
    role = project / "roles/inventorytest/tasks/main.yml"
    role.parent.mkdir(parents=True)
    role.write_text(_text(source, "inventoryRoleTaskFragment"))


def _samples(project: Path, kinds: list[str]) -> None:
    for kind in kinds:
        annotations = {"ansible.sdk.operatorframework.io/verbosity": "0"} if kind == "InventoryTest" else {}
        sample = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": {"name": f"{kind.lower()}-sample", "annotations": annotations},
            "spec": {"size": 3},
        }
        (project / f"config/samples/test_{VERSION}_{kind.lower()}.yaml").write_text(yaml.safe_dump(sample))


def _config(project: Path, source: str, kinds: list[str]) -> None:
    config = project / "config"
    model = (config / "crd/bases/cache.example.com_foos.yaml").read_text().replace("cache.example.com", GROUP)
    shutil.rmtree(config / "crd/bases")
    resources = []
    for kind in kinds:
        resources.append(f"bases/{GROUP}_{kind.lower()}s.yaml")
        path = config / "crd" / resources[-1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(model.replace("Foo", kind).replace("foo", kind.lower()))
    (config / "crd/kustomization.yaml").write_text(yaml.safe_dump({"resources": resources}))
    role = config / "rbac/role.yaml"
    rules = role.read_text().replace("cache.example.com", GROUP).replace("#+kubebuilder:scaffold:rules", "")
    rules += _text(source, "cmRolesFragment")
    for kind in kinds:
        plural = kind.lower() + "s"
        rules += f"""
  - apiGroups: [{GROUP}]
    resources: [{plural}, {plural}/status, {plural}/finalizers]
    verbs: [create, delete, get, list, patch, update, watch]
"""
    role.write_text(rules)
    manager = config / "manager/manager.yaml"
    text = manager.read_text().replace("memcached-molecule-operator", NAME)
    for place, addition in (
        (f"- --leader-election-id={NAME}", "ansibleVaultArg"),
        ("value: explicit", "managerEnv"),
    ):
        text = text.replace(place, place + _text(source, addition))
    manager.write_text(text)
    # The other project's own.
    overlay = config / "testing/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("- path: watch_namespace_patch.yaml\n", ""))


def _vault(project: Path) -> None:
    """As its Dockerfile does."""
    (project / "pwd.yml").write_text("abc123\n")
    program = Path(sys.executable).with_name("ansible-vault")
    command = [
        program,
        "encrypt_string",
        "--vault-password-file",
        project / "pwd.yml",
        "thisisatest",
        "--name",
        "the_secret",
    ]
    encrypted = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (project / "vars.yml").write_text(encrypted)


def _text(source: str, name: str) -> str:
    """A text constant of the generator's."""
    found = re.search(rf"const {name} = `([^`]*)`", source)
    if found is None:
        raise AssertionError(f"the generator has no text {name}: is this another version of it?")
    return found[1]
