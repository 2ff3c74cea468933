"""Faults on purpose: `python -m tests.chaos` kills, cuts off, fills up and misuses an operator, and checks what is left.

What belongs here: scenarios (`kills`, `partitions`, `exhaustion`, `tenants`, `counts`), the operator and its load (`world`),
and what has to be true after each (`oracle`). What does not: anything that looks inside the engine. Only `counts.failures`
drives a part of it in this process, because two thousand failures in a row take weeks by the clock.
"""
