"""`rolerunner check`: reports what keeps an existing operator project from running here.

`project` follows watches.yaml to roles, playbooks and task files; `tasks` reads each of them, with `expressions` for the
templates; `plugins`, `packages`, `templating`, `requirements`, `dockerfile` and `manifests` compare what was read with what
is here. Each returns findings, and `command` prints them. The text decides: nothing of the project is run, and what text
cannot tell is left out. What ansible-core has is asked of `runner.executor.content`.

Next on the way: `devkit.check.command`.
"""
