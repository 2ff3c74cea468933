"""Making an operator's project and what can be made from it: `rolerunner init`, `rolerunner create api`.

What belongs here: the files of a project (`project`, with `templates/`, which are named and look like what they become),
what a kind is called in them (`api`), and adding to files that are the user's by now (`additions`). What does not:
anything of a cluster or of a run. Only `cli` imports this package.
"""
