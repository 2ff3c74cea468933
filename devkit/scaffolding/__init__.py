"""The files of an operator's project: made by `rolerunner init` and `create api`.

What belongs here: the project's tree (`project`, with `templates/`, which are named and look like what they become),
the names derived from a kind (`naming`), and adding to files that the user edits (`yaml_edit`). What does not:
what is generated from roles (`devkit.manifests`), anything that talks to a cluster, and Ansible itself.
"""
