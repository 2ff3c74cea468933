"""Writes the example operator's dashboards and alerts, which are those of a new project: `python -m tests.monitoring`."""

from tests.monitoring import files

for path, text in files.expected().items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
