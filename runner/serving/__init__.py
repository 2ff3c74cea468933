"""HTTP servers for health probes, the runner's metrics, and metrics from roles.

What belongs here: the servers (`server`), the certificate for TLS (`certificate`) and the registry of the roles' metrics
(`role_metrics`). What does not: the series of the runner itself (`runner.metrics`), and the API proxy of the runs
(`runner.proxy`).
"""
