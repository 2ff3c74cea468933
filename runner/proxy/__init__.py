"""The HTTP proxy that a role uses as its API server.

What belongs here: the server (`server`), which run calls (`sessions`), what a request asks for (`requestinfo`, `call`),
answers from informers' stores (`cached_reads`), passing requests on (`forward`), owners of what is created (`ownership`),
and dry runs (`dry_run`). What does not: the runner's own requests (`kube.client`), and what a new dependent means (that goes
up through a callable which the session carries).
"""
