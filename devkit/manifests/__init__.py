"""`rolerunner manifests`: CRDs and RBAC rules, generated from what roles and playbooks say.

`command` reads the project and writes the files; `crd` and `crd_file` make a kind's definition, `rights` and
`role_file` the operator's role, from tasks as `role_reader` finds them and comments as `markers` reads them. What
does not belong here: anything that talks to a cluster, and Ansible itself.
"""
