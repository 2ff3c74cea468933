from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest

from runner.config.annotations import DRY_RUN, for_cr, is_dry_run
from runner.config.settings import Settings
from runner.config.watches import Watch, WatchesError, load, parse
from runner.resource.metadata import GroupVersionKind

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
        HEAD + "  role: thing\n  selector: {matchExpressions: [{key: a, operator: NotIn, values: [a b]}]}\n",
        "watches.yaml:5: selector: a notin (a b) cannot be a selector of labels: correct its key or values",
        id="bad-label-value",
    ),
    pytest.param(
        HEAD + "  role: thing\n  selector: {matchLabels: {a/b/c: d}}\n",
        "watches.yaml:5: selector: a/b/c in (d) cannot be a selector of labels: correct its key or values",
        id="bad-label",
    ),
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
        ({"max-runner-artifacts": "100"}, 60, 100, 2),
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


@pytest.mark.parametrize(
    ("keys", "name", "text", "field", "counts"),
    [
        ("", "reconcile-period", "1ns", "reconcile_period", 1),
        ("  reconcilePeriod: 500ms\n", "reconcile-period", "1ms", "reconcile_period", 0.5),
        ("", "max-runner-artifacts", "0", "max_runner_artifacts", 100),
        ("", "max-runner-artifacts", "101", "max_runner_artifacts", 100),
        ("  maxRunnerArtifacts: 300\n", "max-runner-artifacts", "999", "max_runner_artifacts", 300),
    ],
    ids=["period", "watch-period", "all-artifacts", "artifacts", "watch-artifacts"],
)
def test_an_annotation_goes_no_further_than_it_may(keys: str, name: str, text: str, field: str, counts: float) -> None:
    (watch,) = watches(HEAD + "  role: thing\n" + keys)
    found, (said,) = for_cr(watch, {"metadata": {"annotations": {ANNOTATION + name: text}}})
    assert getattr(found, field) == counts
    assert said.startswith(f"The {name.replace('-', ' ')} annotation, '{text}', goes further than it may; {counts:g}")


LONG = 256 * 1024


@pytest.mark.parametrize("name", ["reconcile-period", "max-runner-artifacts", "verbosity"])
@pytest.mark.parametrize(
    "text", ["1" * LONG, "1." * (LONG // 2), "1m" * (LONG // 2), " " * LONG, "." * LONG, "-" * LONG, "٣" * LONG, "ms" * LONG]
)
def test_an_annotation_of_any_length_is_refused_in_a_short_sentence(name: str, text: str) -> None:
    (watch,) = watches(HEAD + "  role: thing\n")
    before = process_time()
    found, (said,) = for_cr(watch, {"metadata": {"annotations": {ANNOTATION + name: text, DRY_RUN: text}}})
    # An expression that backtracks would take hours.
    assert process_time() - before < 5
    assert found == watch
    allowing = replace(watch, allow_annotations=frozenset({"dry-run"}))
    assert not is_dry_run(allowing, {"metadata": {"annotations": {DRY_RUN: text}}})
    assert len(said) < 1000


def test_only_the_annotations_that_a_watch_allows_count() -> None:
    (watch,) = watches(HEAD + "  role: thing\n  allowAnnotations: [reconcile-period, dry-run]\n")
    annotations = {f"{ANNOTATION}{name}": "5" for name in ("verbosity", "max-runner-artifacts")}
    obj = {"metadata": {"annotations": {**annotations, f"{ANNOTATION}reconcile-period": "5s", DRY_RUN: "true"}}}
    found, said = for_cr(watch, obj)
    assert found == replace(watch, reconcile_period=5)
    assert [sentence.split()[2] for sentence in said] == [ANNOTATION + "max-runner-artifacts", ANNOTATION + "verbosity"]
    assert is_dry_run(watch, obj)


def test_a_dry_run_has_to_be_allowed() -> None:
    (watch,) = watches(HEAD + "  role: thing\n")
    obj = {"metadata": {"annotations": {DRY_RUN: "true"}}}
    assert not is_dry_run(watch, obj)
    assert for_cr(watch, obj) == (
        watch,
        [f"The annotation {DRY_RUN} does not count, as allowAnnotations of the CR's watch is without dry-run"],
    )
    assert for_cr(watch, {"metadata": {"annotations": {DRY_RUN: "false"}}}) == (watch, [])


def test_merge_keys() -> None:
    first, second = watches(
        """
- &first
  version: v1
  group: example.com
  kind: Thing
  role: thing
  manageStatus: false
  vars: &vars {a: 1, b: {<<: &c {c: 1, d: 1}, d: 2}}
- <<: [*first, {manageStatus: true, watchAnnotationsChanges: true}]
  kind: Other
  vars: {<<: *vars, a: 2}
"""
    )
    assert (second.gvk.kind, second.manage_status, second.watch_annotations) == ("Other", False, True)
    assert first.vars == {"a": 1, "b": {"c": 1, "d": 2}}
    assert second.vars == {"a": 2, "b": {"c": 1, "d": 2}}


LAUGHS = "\n".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10))
MERGES = "\n".join(f"  l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}]}}" for n in range(1, 10))
# In a watch's vars.
NO_JSON = {
    "date": ("{since: 2024-01-01}", "5: since: "),
    "date-inside": ("{a: [{since: 2024-01-01 10:00:00}]}", "5: since: "),
    "set": ("{a: !!set {x, y}}", "5: a: "),
    "ordered": ("{a: !!omap [x: 1]}", "5: a: "),
    "pairs": ("{a: !!pairs [x: 1]}", "5: a: "),
    "bytes": ("{a: !!binary aGVsbG8=}", "5: a: "),
    "bad-bytes": ("{a: !!binary é}", "5: a: "),
    "infinite": ("{a: .inf}", "5: a: "),
    "no-number": ("{a: .nan}", "5: a: "),
    "too-large": ("{a: 1.0e+999}", "5: a: "),
    "digits": (f"{{a: {'9' * 5000}}}", "5: a: "),
    "hex-digits": (f"{{a: 0x{'f' * 5000}}}", "5: a: "),
    "number-key": ("{1: a}", "5: 1: "),
    "boolean-key": ("{yes: a}", "5: yes: "),
    "null-key": ("{a: {~: a}}", "5: ~: "),
    "list-key": ("{? [a] : b}", "5: key: "),
    "map-key": ("{? {a: 1} : b}", "5: key: "),
    "value": ("{a: =}", "5: a: "),
    "python": ("{a: !!python/object/apply:os.system ['echo']}", "5: a: "),
    "python-name": ("{a: !!python/name:os.system }", "5: a: "),
    "own-tag": ("{a: !vault x}", "5: a: "),
    "no-integer": ("{a: !!int x}", "5: vars: "),
    "empty-integer": ("{a: !!int ''}", "5: vars: "),
    "no-boolean": ("{a: !!bool x}", "5: vars: "),
    "no-float": ("{a: !!float x}", "5: a: "),
    "itself": ("&v {a: *v}", "5: a: "),
    "itself-twice": ("{a: &v [*v, *v]}", "5: a: "),
    "merged-itself": ("&v {<<: *v}", "5: <<: "),
    "no-merge": ("{<<: 5}", "5: vars: "),
    "merge-of-texts": ("{<<: [a]}", "5: vars: "),
    "deep": ("{a: " + "[" * 150 + "]" * 150 + "}", "5: a: "),
    "text": ("text", "5: vars: "),
}
MALFORMED = {
    "python": ("- !!python/object/apply:os.system ['echo']\n", ":1: watches: "),
    "python-new": ("!!python/object/new:os.system ['echo']\n", ":1: watches: "),
    "python-keys": ("- !!python/object:os.x {version: v1, kind: Thing, role: thing}\n", ":1: watches: "),
    "deep": ("[" * 2000 + "]" * 2000, ": nested too deep"),
    "deep-maps": ("{a: " * 2000 + "}" * 2000, ": nested too deep"),
    "deep-open": ("[" * 5000, ": nested too deep"),
    "laughs": (f"{HEAD}  role: thing\n  l0: &l0 [lol]\n{LAUGHS}\n", ":"),
    "merged-laughs": (f"{HEAD}  role: thing\n  l0: &l0 {{a: 1}}\n{MERGES}\n", ":"),
    "wide-laughs": (f"- &a [{'x, ' * 50_000}]\n- &b [{'*a, ' * 50_000}]\n- [{'*b, ' * 50_000}]\n", ":"),
    "zero": ("- version: v1\0\n", ": no valid YAML: "),
    "control": ("- version: \x07\n", ": no valid YAML: "),
    "tab": ("-\tversion: v1\n\tkind: x\n", ":1: no valid YAML: "),
    "unknown-alias": ("- *nobody\n", ":1: no valid YAML: "),
    "two-documents": ("- a\n--- \n- b\n", ":2: no valid YAML: "),
    "unknown-tag-handle": ("- !e!x y\n", ":1: no valid YAML: "),
    "unended-text": ('- "a\n', ":2: no valid YAML: "),
    "bad-escape": ('- "\\q"\n', ":1: no valid YAML: "),
    "directive": ("%YAML 9.9\n- a\n", ":1: no valid YAML: "),
    "list-as-key": ("- ? [version]\n  : v1\n", ":1: key: "),
    "number-as-key": ("- 5: v1\n", ":1: 5: "),
    "lines-in-a-key": ('- "a\\nb": 1\n  version: v1\n  kind: K\n  role: thing\n', ":1: a b: unknown key"),
    "lines-in-a-role": ('- version: v1\n  kind: K\n  role: "a\\nb"\n', ":3: role: a b was not found"),
    "zero-in-a-role": ('- version: v1\n  kind: K\n  role: "a\\0b"\n', ":3: role: "),
    "long-role": (f"- version: v1\n  kind: K\n  role: {'a' * 5000}\n", ":3: role: "),
    "long-playbook": (f"- version: v1\n  kind: K\n  playbook: {'a' * 5000}\n", ":3: playbook: "),
    "date-version": ("- version: 2024-01-01\n  kind: K\n  role: thing\n", ":1: version: "),
    "merge-in-a-watch": (HEAD + "  role: thing\n  <<: [5]\n", ":5: <<: "),
    "long-period": (HEAD + f"  role: thing\n  timeout: {'1' * 3}{'1m' * 5000}\n", ":5: timeout: "),
    "open-expression": (
        HEAD + f"  role: thing\n  watchRelatedResources: [{{version: v1, kind: S, byExpression: '{'(' * 3000}'}}]\n",
        ":5: byExpression: ",
    ),
    "unknown-annotation": (HEAD + "  role: thing\n  allowAnnotations: [colour]\n", ":5: allowAnnotations: expected a list"),
    "annotations-no-list": (HEAD + "  role: thing\n  allowAnnotations: [[a]]\n", ":5: allowAnnotations: expected a list"),
    **{f"vars-{name}": (HEAD + f"  role: thing\n  vars: {text}\n", f":{at}") for name, (text, at) in NO_JSON.items()},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_gives_one_short_line(name: str) -> None:
    text, place = MALFORMED[name]
    before = process_time()
    (problem,) = problems(text)
    assert process_time() - before < 60
    assert problem.startswith("watches.yaml" + place)
    assert "\n" not in problem
    assert len(problem) <= 2000


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
