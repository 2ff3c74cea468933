"""`python -m runner` is `rolerunner`."""

from runner.cli import main

main()
