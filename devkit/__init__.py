"""Tools for writing an operator with rolerunner; running one needs none of them.

What belongs here: commands for writing, moving or testing an operator: those that read a project
(`check`, `manifests`), make files of it (`scaffolding`), try CRs (`plan`) or start things for it (`dev`,
`devcluster`). It may use anything of `runner`. What does not: whatever a running operator needs, which is `runner`;
the engine never imports this package, and its image is without it. `runner.cli` finds its commands by the entry
points of the group `rolerunner.commands` in pyproject.toml.
"""
