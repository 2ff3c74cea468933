"""A stand-in for the sharder of kubernetes-controller-sharding, and the proof that no CR is run by two shards at once.

The stand-in does to labels and Leases what the sharder does; where the sharder was built, it may take its place. It is a
process of its own:

    python -m tests.sharding.sharder --kubeconfig PATH [--sync-period SECONDS]

From Python, with `bench.driver.Cluster`; `setup` has the details:

    await setup.install(cluster, "ring", {"things.test.example.com": ("configmaps",)})
    sharder = setup.start(kubeconfig, folder)              # or executable=PATH: the sharder itself
    await setup.ready(cluster, "ring")
    ...
    sharder.kill()
    await setup.uninstall(cluster, "ring")

`leases`, `hash_ring` and `assignment` are its decisions, without a cluster; `sharder` the process.
"""

# Seconds between two looks at all objects, for tests: what a machine that stalls has kept from being assigned when it was
# written is assigned then. The sharder's own are five minutes.
SYNC_PERIOD = 15.0
