"""The JSON schema of watches.yaml, for editors: `rolerunner schema`.

It says what each key is for while one types. What is checked when the runner starts, and told with its line, is in
`runner.config.watches`; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

_NO_EXTRAS = {"additionalProperties": False}
_DURATION = {
    "type": "string",
    "pattern": r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$",
    "examples": ["30s", "5m", "1h30m"],
}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _filled(description: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "description": description}


def _flag(default: bool, description: str) -> dict[str, Any]:
    return {"type": "boolean", "default": default, "description": description}


_KIND = {
    "group": _text("The kind's API group; nothing for the core group."),
    "version": _filled("The kind's API version, such as v1alpha1."),
    "kind": _filled("The kind, such as Memcached."),
}
_VARS = {"type": "object", "description": "Variables for the role or playbook, over those of the CR."}
_CONTENT = {
    "role": _text("A role's name, path, or NAMESPACE.COLLECTION.ROLE."),
    "playbook": _text("A playbook's path; goes before a role."),
}
_ONE_CONTENT = [{"required": ["role"]}, {"required": ["playbook"]}]
_SELECTOR = {
    "type": "object",
    "properties": {
        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
        "matchExpressions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "key": {"type": "string", "minLength": 1},
                    "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                    "values": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["key", "operator"],
                **_NO_EXTRAS,
            },
        },
    },
    **_NO_EXTRAS,
}
_RELATED = {
    "type": "object",
    "properties": {
        **_KIND,
        "selector": {**_SELECTOR, "description": "Only objects with these labels."},
        "byLabel": _filled("The label whose value is the CR's name."),
        "byAnnotation": _filled(
            "The annotation whose value is the CR's NAME, or a comma list; without a namespace also NAMESPACE/NAME."
        ),
        "byName": {"const": True, "description": "The CR has the object's own name."},
        "byExpression": _filled("A Jinja expression over `object` and `crs` that comes to CRs, or to their names."),
    },
    "required": ["version", "kind"],
    "oneOf": [{"required": [name]} for name in ("byLabel", "byAnnotation", "byName", "byExpression")],
    **_NO_EXTRAS,
}
_FINALIZER = {
    "type": "object",
    "description": "What runs before a CR may go. Without a role or a playbook, the watch's, with these vars.",
    "properties": {"name": _filled("Such as example.com/cleanup."), **_CONTENT, "vars": _VARS},
    "required": ["name"],
    "anyOf": [*_ONE_CONTENT, {"required": ["vars"]}],
    **_NO_EXTRAS,
}
_WATCH = {
    "type": "object",
    "properties": {
        **_KIND,
        **_CONTENT,
        "vars": _VARS,
        "reconcilePeriod": {**_DURATION, "description": "How often each CR is run anew. Default: --reconcile-period."},
        "timeout": {**_DURATION, "description": "When a run is ended and counts as failed. Default: --run-timeout."},
        "maxRunnerArtifacts": {
            "type": "integer",
            "minimum": 0,
            "default": 20,
            "description": "Of how many runs the artifacts are kept for each CR.",
        },
        "allowAnnotations": {
            "type": "array",
            "items": {"enum": ["reconcile-period", "max-runner-artifacts", "verbosity", "dry-run"]},
            "default": ["reconcile-period", "max-runner-artifacts", "verbosity"],
            "description": "Which annotations of a CR count.",
        },
        "manageStatus": _flag(True, "Write the conditions Running, Successful and Failure to the CR's status."),
        "markUnsafe": _flag(True, "Take the CR's strings as data, never as templates."),
        "snakeCaseParameters": _flag(True, "Hand the spec's fields over in snake_case."),
        "watchDependentResources": _flag(True, "Run a CR anew when something that its role created changes."),
        "watchClusterScopedResources": _flag(False, "The same for cluster-scoped things of namespaced CRs."),
        "watchAnnotationsChanges": _flag(False, "Run a CR anew when only its annotations change."),
        "watchRelatedResources": {
            "type": "array",
            "items": _RELATED,
            "description": "Further kinds, not owned, whose changes run the CRs that they are mapped to.",
        },
        "blacklist": {
            "type": "array",
            "items": {"type": "object", "properties": _KIND, "required": ["version", "kind"], **_NO_EXTRAS},
            "description": "Kinds that are not watched as dependents.",
        },
        "finalizer": _FINALIZER,
        "selector": {**_SELECTOR, "description": "Only CRs with these labels."},
    },
    "required": ["version", "kind"],
    "anyOf": _ONE_CONTENT,
    **_NO_EXTRAS,
}

WATCHES: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "watches.yaml",
    "description": "Which kinds are mapped to which Ansible roles and playbooks.",
    "type": "array",
    "minItems": 1,
    "items": _WATCH,
}
