"""`rolerunner dev`: runs the operator of this folder on a cluster while its files are edited.

`session` starts the operator, polls files and asks for requeues; `view` prints what happens.
"""
