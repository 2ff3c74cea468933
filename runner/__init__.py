"""rolerunner: Kubernetes operators written in Ansible.

Layers, imports point down only::

    cli
    manager
    control
    executor | proxy | serving
    kube
    config
    metrics | logs
    resource
    errors

To read the program in the order in which a custom resource goes through it: `kube.primaries`, `control.handlers`,
`control.workqueue`, `control.controller`, `control.reconciler`, `control.run`, `executor.jobs`, `proxy.server`,
`kube.informer`. `manager` puts the parts together. `docs/architecture.md` tells the same story in prose.
"""

__version__ = "0.1.0"
