"""What helps to write an operator with rolerunner, and is not needed to run one.

Here belongs what a person calls while writing, moving or testing an operator: commands that read a project, make files of it
or start things for it. It may use anything of `runner`. Not here: whatever a running operator needs, which is `runner`; the
engine never imports this package, and an image may leave it out. `runner.cli` finds its commands by the entry points of the
group `rolerunner.commands` in pyproject.toml.
"""
