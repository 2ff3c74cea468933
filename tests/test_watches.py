from dataclasses import replace
from pathlib import Path

import pytest

from runner.resource.metadata import GroupVersionKind
from runner.settings import Settings
from runner.watches import Watch, WatchesError, for_cr, load, parse

HEAD = "- version: v1\n  group: example.com\n  kind: Thing\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roles/thing/tasks").mkdir(parents=True)
    (tmp_path / "play.yml").write_text("[]")
    return tmp_path


def watches(text: str, environ: dict[str, str] | None = None, **settings: object) -> tuple[Watch, ...]:
    return parse(text, settings=Settings(**settings), environ=environ or {})  # type: ignore[arg-type]


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(WatchesError) as caught:
        watches(text, environ)
    return list(caught.value.problems)


def test_defaults(project: Path) -> None:
    (watch,) = watches(HEAD + "  role: thing\n", reconcile_period=7.0, max_concurrent_reconciles=3, verbosity=1)
    assert watch.gvk == GroupVersionKind("example.com", "v1", "Thing")
    assert watch.content.role == project / "roles/thing"
    assert watch.content.playbook is None
    assert watch.vars == {}
    assert watch.reconcile_period == 7.0
    assert watch.max_concurrent_reconciles == 3
    assert watch.verbosity == 1
    assert watch.timeout is None
    assert watch.max_runner_artifacts == 20
    assert (watch.manage_status, watch.snake_case_parameters, watch.mark_unsafe, watch.watch_dependents) == (True,) * 4
    assert (watch.watch_cluster_scoped, watch.watch_annotations) == (False, False)
    assert watch.related == ()
    assert watch.finalizer is None
    assert watch.blacklist == frozenset()
    assert watch.selector.matches({"metadata": {}})


def test_every_key(project: Path) -> None:
    (watch,) = watches(
        HEAD
        + """
  role: thing
  playbook: play.yml
  vars: {a: 1, b: "{{ x }}"}
  reconcilePeriod: 1h5m
  timeout: 90s
  maxRunnerArtifacts: 3
  manageStatus: false
  snakeCaseParameters: no
  markUnsafe: false
  watchDependentResources: false
  watchClusterScopedResources: true
  watchAnnotationsChanges: true
  blacklist:
    - {version: v1, kind: Secret}
  finalizer:
    name: example.com/clean
    vars: {state: absent}
  selector:
    matchLabels: {tier: front}
    matchExpressions:
      - {key: env, operator: In, values: [prod, stage]}
      - {key: legacy, operator: DoesNotExist}
"""
    )
    assert watch.content.playbook == project / "play.yml"
    assert watch.timeout == 90
    assert watch.content.role is None
    assert watch.vars == {"a": 1, "b": "{{ x }}"}
    assert watch.reconcile_period == 3900
    assert watch.max_runner_artifacts == 3
    assert (watch.manage_status, watch.snake_case_parameters, watch.mark_unsafe, watch.watch_dependents) == (False,) * 4
    assert (watch.watch_cluster_scoped, watch.watch_annotations) == (True, True)
    assert watch.blacklist == {GroupVersionKind("", "v1", "Secret")}
    assert watch.finalizer is not None
    assert (watch.finalizer.name, watch.finalizer.vars, watch.finalizer.content) == (
        "example.com/clean",
        {"state": "absent"},
        None,
    )

    def matches(**labels: str) -> bool:
        return watch.selector.matches({"metadata": {"labels": labels}})

    assert matches(tier="front", env="prod")
    assert not matches(tier="front")
    assert not matches(tier="front", env="prod", legacy="")
    assert not matches(tier="back", env="prod")


MISTAKES = [
    pytest.param(HEAD + "  role: thing\n  rolle: x\n", "watches.yaml:5: rolle: unknown key", id="unknown-key"),
    pytest.param(HEAD + "  role: nope\n", "watches.yaml:4: role: nope was not found; looked for", id="no-role"),
    pytest.param(HEAD + "  playbook: no.yml\n", "watches.yaml:4: playbook: no.yml was not found", id="no-playbook"),
    pytest.param(HEAD, "watches.yaml:1: role: neither role nor playbook", id="neither"),
    pytest.param(HEAD + "  role: ''\n", "watches.yaml:4: role: empty", id="empty-role"),
    pytest.param("- kind: Thing\n  role: thing\n", "watches.yaml:1: version: missing or empty", id="no-version"),
    pytest.param(
        HEAD + "  role: thing\n  manageStatus: 'yes'\n",
        "watches.yaml:5: manageStatus: expected true or false, found 'yes'",
        id="bad-boolean",
    ),
    pytest.param(
        HEAD + "  role: thing\n  reconcilePeriod: 5\n",
        "watches.yaml:5: reconcilePeriod: expected a duration such as 30s",
        id="number-for-duration",
    ),
    pytest.param(
        HEAD + "  role: thing\n  reconcilePeriod: 5x\n", "watches.yaml:5: reconcilePeriod: '5x' is no", id="bad-duration"
    ),
    pytest.param(HEAD + "  role: thing\n  vars: [a]\n", "watches.yaml:5: vars: expected variables", id="bad-vars"),
    pytest.param(
        HEAD + "  role: thing\n  maxRunnerArtifacts: -1\n",
        "watches.yaml:5: maxRunnerArtifacts: expected a whole number",
        id="bad-count",
    ),
    pytest.param(
        HEAD + "  role: thing\n  finalizer: {vars: {a: 1}}\n",
        "watches.yaml:5: finalizer.name: missing",
        id="finalizer-name",
    ),
    pytest.param(HEAD + "  role: thing\n  finalizer: {name: x}\n", "watches.yaml:5: role: neither", id="finalizer-content"),
    pytest.param(
        HEAD + "  role: thing\n  selector: {matchExpressions: [{key: a, operator: Is}]}\n",
        "watches.yaml:5: selector.matchExpressions: needs a key and one of the operators",
        id="bad-operator",
    ),
    pytest.param(
        HEAD + "  role: thing\n" + HEAD + "  role: thing\n",
        "watches.yaml:5: kind: example.com/v1, Kind=Thing is",
        id="twice",
    ),
    pytest.param(HEAD + "  role: thing\n  role: thing\n", "watches.yaml:5: role: stands twice", id="key-twice"),
    pytest.param("kind: Thing\n", "watches.yaml:1: expected a list", id="no-list"),
    pytest.param("- just text\n", "watches.yaml:1: watch: expected keys and values", id="no-mapping"),
    pytest.param("", "watches.yaml: expected a list", id="empty"),
    pytest.param("[]", "watches.yaml:1: watches: the list is empty", id="empty-list"),
    pytest.param("- kind: [\n", "watches.yaml:2: no valid YAML", id="no-yaml"),
    pytest.param("- version: 1\n  kind: K\n  role: thing\n", "watches.yaml:1: version: expected text, found 1", id="number"),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: [{version: v1, kind: Secret}]\n",
        "watches.yaml:5: watchRelatedResources: needs exactly one of byLabel, byAnnotation, byName, byExpression",
        id="no-mapping-to-crs",
    ),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: [{version: v1, kind: Secret, byLabel: a, byName: true}]\n",
        "watches.yaml:5: watchRelatedResources: needs exactly one of",
        id="two-mappings-to-crs",
    ),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: [{version: v1, kind: Secret, byName: one}]\n",
        "watches.yaml:5: byName: expected true, found 'one'",
        id="by-which-name",
    ),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: [{version: v1, kind: Secret, byLabel: ''}]\n",
        "watches.yaml:5: byLabel: expected text, found ''",
        id="no-label",
    ),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: [{kind: Secret, byLabel: a}]\n",
        "watches.yaml:5: version: missing or empty",
        id="related-version",
    ),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: {version: v1, kind: Secret, byLabel: a}\n",
        "watches.yaml:5: watchRelatedResources: expected a list",
        id="related-no-list",
    ),
    pytest.param(
        HEAD + "  role: thing\n  watchRelatedResources: [{version: v1, kind: Secret, byExpression: 'object.'}]\n",
        "watches.yaml:5: byExpression: 'object.' is no Jinja expression: expected name or number",
        id="expression",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_gives_one_line_with_file_line_and_key(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_related_kinds() -> None:
    (watch,) = watches(
        HEAD
        + """  role: thing
  watchRelatedResources:
    - {version: v1, kind: Secret, byLabel: cr, selector: {matchLabels: {tier: front}}}
    - {group: apps, version: v1, kind: Deployment, byName: true}
"""
    )
    secret, deployment = watch.related
    assert secret.gvk == GroupVersionKind("", "v1", "Secret")
    assert not secret.selector.matches({"metadata": {}})
    assert [str(key) for key in secret.mapper({"metadata": {"labels": {"cr": "one"}}}, ())] == ["one"]
    assert deployment.gvk == GroupVersionKind("apps", "v1", "Deployment")
    assert [str(key) for key in deployment.mapper({"metadata": {"name": "a", "namespace": "b"}}, ())] == ["b/a"]


def test_all_mistakes_are_told_at_once() -> None:
    text = HEAD + "  role: nope\n  manageStatus: 3\n- kind: Other\n  colour: red\n"
    assert [problem.split(": ")[1] for problem in problems(text)] == ["role", "manageStatus", "colour", "version", "role"]


def test_a_file_that_is_not_there_is_told_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(WatchesError, match=r"nowhere\.yaml: No such file.*--watches-file"):
        load(Settings(watches_file=tmp_path / "nowhere.yaml"), {})


def test_variables_in_the_file_come_from_the_environment() -> None:
    text = HEAD + "  role: ${ROLE}\n  vars:\n    a: $ONE\n    b: ${UNSET}\n    c: $UNSET\n"
    (watch,) = watches(text, {"ROLE": "thing", "ONE": "1"})
    assert watch.vars == {"a": 1, "b": "${UNSET}", "c": "${UNSET}"}


@pytest.mark.parametrize(
    ("role", "stands", "environ"),
    [
        pytest.param("{base}/abs/r", "abs/r", {}, id="absolute"),
        pytest.param("r", "roles/r", {}, id="project"),
        pytest.param("r", "mine/r", {"ANSIBLE_ROLES_PATH": "{base}/other:{base}/mine"}, id="roles-path"),
        pytest.param("r", "mine/roles/r", {"ANSIBLE_ROLES_PATH": "mine"}, id="roles-below-relative-roles-path"),
        pytest.param(
            "ns.coll.r",
            "c/ansible_collections/ns/coll/roles/r",
            {"ANSIBLE_COLLECTIONS_PATH": "{base}/c"},
            id="collection",
        ),
        pytest.param("ns.coll.r", "roles/ns.coll.r", {}, id="dots-are-no-collection"),
    ],
)
def test_where_roles_are_found(project: Path, role: str, stands: str, environ: dict[str, str]) -> None:
    (project / stands).mkdir(parents=True)
    environ = {name: value.format(base=project) for name, value in environ.items()}
    (watch,) = watches(HEAD + f"  role: {role.format(base=project)}\n", environ)
    assert watch.content.role == project / stands


@pytest.mark.parametrize(
    ("environ", "limit", "verbosity"),
    [
        ({}, 4, 2),
        ({"MAX_CONCURRENT_RECONCILES_THING_MY_EXAMPLE_COM": "7", "WORKER_THING_MY-EXAMPLE_COM": "8"}, 7, 2),
        ({"WORKER_THING_MY-EXAMPLE_COM": "8"}, 8, 2),
        ({"MAX_CONCURRENT_RECONCILES_THING_MY-EXAMPLE_COM": "many"}, 4, 2),
        ({"ANSIBLE_VERBOSITY_THING_MY_EXAMPLE_COM": "7"}, 4, 7),
        ({"ANSIBLE_VERBOSITY_THING_MY_EXAMPLE_COM": "8"}, 4, 2),
    ],
)
def test_limits_of_one_kind_from_the_environment(environ: dict[str, str], limit: int, verbosity: int) -> None:
    text = "- {version: v1, group: my-example.com, kind: Thing, role: thing}\n"
    (watch,) = watches(text, environ, max_concurrent_reconciles=4)
    assert (watch.max_concurrent_reconciles, watch.verbosity) == (limit, verbosity)


def test_the_flags_timeout_is_for_watches_without_one() -> None:
    assert watches(HEAD + "  role: thing\n", run_timeout=7.0)[0].timeout == 7
    assert watches(HEAD + "  role: thing\n  timeout: 0s\n", run_timeout=7.0)[0].timeout == 7
    assert watches(HEAD + "  role: thing\n  timeout: 5s\n", run_timeout=7.0)[0].timeout == 5


ANNOTATION = "ansible.sdk.operatorframework.io/"


@pytest.mark.parametrize(
    ("annotations", "period", "artifacts", "verbosity"),
    [
        ({}, 60, 20, 2),
        ({"reconcile-period": "5s"}, 5, 20, 2),
        ({"reconcile-period": "0"}, 0, 20, 2),
        ({"max-runner-artifacts": "3"}, 60, 3, 2),
        # Keep all, whereas in the file it means the default.
        ({"max-runner-artifacts": "0"}, 60, 0, 2),
        ({"verbosity": "5"}, 60, 20, 5),
        ({"verbosity": "0"}, 60, 20, 0),
    ],
)
def test_what_a_cr_overrides(annotations: dict[str, str], period: float, artifacts: int, verbosity: int) -> None:
    (watch,) = watches(HEAD + "  role: thing\n  reconcilePeriod: 1m\n")
    named = {ANNOTATION + name: text for name, text in annotations.items()}
    found, said = for_cr(watch, {"metadata": {"annotations": named}})
    assert (found.reconcile_period, found.max_runner_artifacts, found.verbosity) == (period, artifacts, verbosity)
    assert said == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "reconcile-period",
            "soon",
            "reconcile period annotation: 'soon' is no duration; write it as 30s, 5m, 1h30m or 10h",
        ),
        ("reconcile-period", "-5s", "reconcile period annotation: '-5s' is below zero"),
        ("max-runner-artifacts", "-1", "max runner artifacts annotation: '-1' is no whole number from 0"),
        ("max-runner-artifacts", "", "max runner artifacts annotation: '' is no whole number from 0"),
        ("verbosity", "8", "verbosity annotation: '8' is no whole number from 0 to 7"),
        ("verbosity", "²", "verbosity annotation: '²' is no whole number from 0 to 7"),
    ],
)
def test_an_annotation_that_cannot_be_used_changes_nothing(name: str, text: str, expected: str) -> None:
    (watch,) = watches(HEAD + "  role: thing\n")
    good = {ANNOTATION + "verbosity": "4"} if name != "verbosity" else {}
    found, said = for_cr(watch, {"metadata": {"annotations": {**good, ANNOTATION + name: text}}})
    assert said == ["Unable to parse " + expected]
    # The others count all the same.
    assert found == (replace(watch, verbosity=4) if good else watch)


def test_each_watch_has_a_controller_name_of_its_own_and_the_go_operators_where_that_is_one() -> None:
    entries = [("example.com", "v1", "Thing"), ("other.org", "v1", "Thing"), ("example.com", "v2", "Thing")]
    entries += [("", "v1", "Secret"), ("other.org", "v1", "Secret")]
    text = "".join(
        f"- {{version: {version}, group: '{group}', kind: {kind}, role: thing}}\n" for group, version, kind in entries
    )
    assert [watch.controller for watch in watches(text)] == [
        "thing-v1-example.com-controller",
        "thing-v1-other.org-controller",
        "thing-v2-controller",
        "secret-v1-core-controller",
        "secret-v1-other.org-controller",
    ]
