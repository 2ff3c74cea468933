"""The warm executor: processes that have Ansible loaded play many jobs, one after another.

In the runner: `executor`. In a process of its own: `forkserver`, whose forks are `worker`s; `reset` puts a worker
back between two jobs. What does not belong here: changes to ansible-core itself, which are `runner.executor.patches`.
"""
