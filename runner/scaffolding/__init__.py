"""What helps to write an operator, and is not needed to run one: `rolerunner init`, `create api` and `manifests`.

What belongs here: the files of a project (`project`, with `templates/`, which are named and look like what they become),
what a kind is called in them (`api`), adding to files that are the user's by now (`additions`); and what is generated from
roles and playbooks, which are read as text (`manifests`, then `crd` and `rbac`). What does not: anything that talks to a
cluster, and Ansible itself. Only `cli` imports this package.
"""
