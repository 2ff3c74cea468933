"""Ansible: runs a Job, yields its events as they come, and leaves ansible-runner's artifacts.

What belongs here: everything that imports or starts Ansible. What does not: anything of Kubernetes; a Job says what to run
with which variables and which environment, and has never heard of a custom resource.

An executor is a function from a `Job` to an async iterator of `JobEvent`s (`jobs.Execute`).
"""
