"""Drives an operator from outside: the figures (`python -m bench`), the demo (`python -m bench.demo`), and the tests.

What belongs here: starting any operator's command line, making it work, and looking at what comes of it. What does not:
anything that looks inside.
"""
