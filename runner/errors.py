"""The tree of errors: whatever the engine or the kit raises for a caller to catch derives from `RolerunnerError`.

A class stands in the module that raises it; the base, and `ConfigurationError`, which every layer raises, stand here. An
error from outside (OSError, aiohttp, PyYAML) is translated where it comes in, with its cause chained. An error of the tree
that reaches a command is one line on standard error: `runner.cli.mistakes`.

RolerunnerError
├── ConfigurationError          a user's mistake: nothing begins until it is corrected
│   ├── WatchesError            config.watches: all mistakes in watches.yaml
│   └── ArtifactsError          executor.run_folder: the folder of the runs cannot be used
├── MappingError                config.related: an expression that names no CR
├── KubeError                   kube.client, which draws the part of the tree below it: what the cluster did not do
├── Lost                        kube.lease: another replica leads
├── Retry                       control: the reconcile is to be repeated with backoff
├── Closed                      control.workqueue: the queue gives out nothing any more
├── Unusable                    resource.parameters: a CR of which no variables can be made
├── ExecutorError               executor: a run that could not be made, or ended without a result
├── NotPlain                    executor.patches: a value that the fast path does not know
├── Refusal                     proxy.dry_run: a request that a dry run may not make
├── DryRunError                 dashboard.dry_runs: a dry run that was asked for and cannot be made
├── TooMuch                     dashboard.artifacts: a page has no room for more
├── TracesError                 tracing: traces that are asked for and cannot be made
├── RefusedMetric               serving.role_metrics: a role's metric that cannot be taken
├── DevclusterError             devkit.devcluster: it could not be started, or found
├── CommandError                devkit.devcluster.kubelet: a command that cannot be run
├── Failed                      devkit.devcluster.binaries: one way to get a program did not work
└── Unknown                     devkit.manifests: a value that only a run knows
"""

from __future__ import annotations


class RolerunnerError(Exception):
    """Base of all errors of rolerunner; `str()` says what is wrong."""


class ConfigurationError(RolerunnerError):
    """A user's mistake in a flag, a variable or a file: `str()` says where it is and what to do about it."""
