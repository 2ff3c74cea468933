"""The cluster: everything that speaks to the API server on the runner's own behalf.

What belongs here: connecting and HTTP (`client`), which kinds there are (`discovery`), watching (`primaries` by kopf,
`informer` for what roles create), Events, and which of several replicas leads (`lease`). What does not: what a run asks for
(`proxy` passes that on), and what to do about a change (`control`).
"""
