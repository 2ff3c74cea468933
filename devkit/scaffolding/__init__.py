"""The files of an operator's project: made by `rolerunner init` and `create api`.

What belongs here: the project's tree (`project`, with `templates/`, which are named and look like what they become),
what a kind is called in it (`naming`), and adding to files that are the user's by now (`yaml_edit`). What does not:
what is generated from roles (`devkit.manifests`), anything that talks to a cluster, and Ansible itself.
"""
