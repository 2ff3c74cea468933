"""The schema for editors says what the runner's own reading says."""

import json

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from bench.driver import ROOT
from runner.cli import main
from runner.config import keys, watches
from runner.config.schema import WATCHES
from tests.config.test_watches import HEAD, MISTAKES

ITEM = WATCHES["items"]

# What cannot be said in a schema, or only the runner can see: files, and things that stand twice.
BEYOND = {
    "no-role",
    "no-playbook",
    "twice",
    "key-twice",
    "no-yaml",
    "empty",
    "expression",
    "empty-role",
    "bad-label",
    "bad-label-value",
}


def test_the_schema_is_one_and_is_printed() -> None:
    printed = json.loads(CliRunner().invoke(main, ["schema"]).output)
    assert printed == WATCHES
    jsonschema.Draft202012Validator.check_schema(printed)


def test_the_keys_are_those_that_users_have() -> None:
    assert set(ITEM["properties"]) == {
        *("group", "version", "kind", "role", "playbook", "vars", "finalizer", "selector", "blacklist"),
        *("reconcilePeriod", "timeout", "manageStatus", "markUnsafe", "snakeCaseParameters", "maxRunnerArtifacts"),
        *("watchDependentResources", "watchClusterScopedResources", "watchAnnotationsChanges", "watchRelatedResources"),
        "allowAnnotations",
    }
    assert set(ITEM["properties"]["finalizer"]["properties"]) == {"name", "role", "playbook", "vars"}


def test_the_annotations_are_the_readers() -> None:
    annotations = ITEM["properties"]["allowAnnotations"]
    assert tuple(annotations["items"]["enum"]) == watches.ANNOTATIONS
    assert frozenset(annotations["default"]) == watches.DEFAULT_ANNOTATIONS


def test_the_example_is_valid() -> None:
    jsonschema.validate(yaml.safe_load((ROOT / "watches.yaml").read_text()), WATCHES)


@pytest.mark.parametrize(
    "text", [pytest.param(case.values[0], id=str(case.id)) for case in MISTAKES if case.id not in BEYOND]
)
def test_what_the_runner_refuses_is_not_valid(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), WATCHES)


@pytest.mark.parametrize("text", ["0", "0s", "1h5m", "1.5h", ".5s", "+3s", "300ms", "1h30m10s"])
def test_durations(text: str) -> None:
    jsonschema.validate(yaml.safe_load(HEAD + f"  role: thing\n  timeout: '{text}'\n"), WATCHES)
    assert keys.DURATION.convert(text) >= 0
