"""What the runner serves about itself: probes, its metrics, and the metrics that roles bring.

What belongs here: the HTTP servers (`server`), the certificate for TLS (`certificate`) and the roles' own metrics
(`role_metrics`). What does not: the series of the runner itself (`runner.metrics`), and the API proxy of the runs
(`runner.proxy`).
"""
