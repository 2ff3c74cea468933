"""A real control plane on this machine: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and kwok for nodes.

What belongs here: having the binaries (`binaries`), a cluster's lifetime (`cluster`, `supervisor`), the commands and the
pytest fixtures around it. What does not: anything of the operator; a devcluster is a cluster like another.

    with Cluster.start() as cluster:
        print(cluster.kubeconfig)
"""

from devkit.devcluster.cluster import Cluster, DevclusterError

__all__ = ["Cluster", "DevclusterError"]
