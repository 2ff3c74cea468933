"""What a role sees as the API server.

What belongs here: who may call (`sessions`), which request this is (`requestinfo`), passing it on and marking what it
creates (`server`). What does not: the runner's own requests (`kube.client`), and what a new dependent means (that goes up
through a callable which the session carries).
"""
