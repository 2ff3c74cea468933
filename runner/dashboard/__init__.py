"""The dashboard: HTML pages that show what the operator does, and let who has the rights ask for runs.

What belongs here: the server with its security (`server`, `logins`), which callers may see what (`access`), what pages read
(`state`, `index`), the pages themselves (`pages`), and the dry runs that they ask for (`dry_runs`). What does not: the
records of what was done (`runner.control.history`), and servers for programs (`runner.serving`). It is imported only where
`--dashboard-bind-address` is given.

Next on the way: `runner.dashboard.server`.
"""
