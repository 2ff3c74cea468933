"""How one run is handed to ansible_runner, and what is kept of it: masked events, the printed text, the command."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.executor.artifacts import write_private
from runner.executor.masking import Masker


class Recorder:
    """Follows one run. `tell` gets each event, masked, as JSON; the artifacts get what ansible-runner does not write."""

    def __init__(self, order: dict[str, Any], tell: Callable[[str], None]) -> None:
        self._order = order
        self._tell = tell
        content = Path(order["role"] or order["playbook"])
        self._masker = Masker(order["secrets"], [*order["names"], *content.parts, *Path(order["folder"]).parts])
        self._folder = Path(order["folder"])
        self.artifacts = self._folder / "artifacts" / order["ident"]
        self._printed: list[str] = []

    def arguments(self) -> dict[str, Any]:
        """For ansible_runner's `run` or `init_runner`."""
        order = self._order
        playbook: Any = order["playbook"]
        if order["role"]:
            play: dict[str, Any] = {"hosts": "localhost", "roles": [{"name": Path(order["role"]).name}]}
            if not order["gather_facts"]:
                play["gather_facts"] = False
            playbook = [play]
        return {
            "private_data_dir": order["folder"],
            # Where ansible-playbook works: ansible.cfg is looked for there, and relative paths in arguments and variables
            # mean what they mean to who started the operator. Tasks work in the playbook's folder, as ever.
            "project_dir": os.getcwd(),
            "ident": order["ident"],
            "playbook": playbook,
            "envvars": dict(order["environment"]),
            "verbosity": order["verbosity"] or None,
            "quiet": True,
            # The printed text goes through the masker instead.
            "settings": {"suppress_output_file": True, "pexpect_timeout": 1},
            "suppress_env_files": True,
            "event_handler": self.handle,
            "status_handler": self._started,
            "cancel_callback": lambda: False,
        }

    def handle(self, event: dict[str, Any]) -> bool:
        """Changes the event itself, so that what ansible-runner writes to the artifacts is masked as well."""
        event.update(json.loads(self.record(json.dumps(event, default=str))))
        return True

    def record(self, event: str, printed: str | None = None) -> str:
        """The event, masked, as it was told. `printed` is its text, if that is known."""
        masked = self._masker.mask_json(event)
        self._tell(masked)
        if printed is None or masked is not event:
            printed = json.loads(masked).get("stdout")
        if printed:
            self._printed.append(printed + "\n")
        return masked

    def close(self) -> str:
        """Write down what was printed, and return it."""
        text = "".join(self._printed)
        self.keep("stdout", text)
        return text

    def keep(self, name: str, text: str) -> None:
        """Write one of the artifacts, if any are wanted."""
        if self._order["artifacts"]:
            write_private(self.artifacts / name, text)

    def _started(self, status: dict[str, Any], **_: Any) -> None:
        # By now ansible-runner has written down the command and the environment that it runs with.
        if status["status"] == "running":
            path = self.artifacts / "command"
            with contextlib.suppress(OSError, ValueError):
                path.write_text(json.dumps(self.redacted(json.loads(path.read_text()))))

    def redacted(self, record: dict[str, Any]) -> dict[str, Any]:
        """ansible-runner records the whole environment; what a pod gets as its environment is often secret."""
        known = {"PATH", "HOME", "LANG", "KUBECONFIG", "K8S_AUTH_KUBECONFIG", *self._order["environment"]}
        kept = {name: value for name, value in record["env"].items() if name in known or name.startswith("ANSIBLE_")}
        return {**record, "env": kept}
