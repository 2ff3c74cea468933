"""`rolerunner dev`: run the operator of this folder on a cluster, and again with each edit.

`session` starts the operator, watches files and asks for requeues; `view` prints what happens.
"""
