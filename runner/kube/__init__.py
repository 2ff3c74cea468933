"""The runner's own access to the Kubernetes API.

What belongs here: connecting and HTTP (`client`), discovery of kinds (`discovery`), watches (`primaries` by kopf,
`informer` for dependents), Events, and leader election (`lease`). What does not: the requests of runs (`proxy` passes them
on), and the reaction to a change (`control`).
"""
