"""Records a run of ansible-runner: masked events, the printed text, the command; and gives it the arguments of the run."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from runner.executor.jobs import LONGEST_EVENT, REQUEUE_RESULTS, JobMessage
from runner.json_codec import JsonObject
from runner.private_files import write_private
from runner.resource.masking import Masker

# Of an event that is cut: characters that each text keeps, and each value of a task's result (as JSON).
_LONGEST_TEXT, _LONGEST_VALUE = 16 * 1024, 64 * 1024
# What the artifacts of one run may have: events, and characters of them and of what was printed.
_MOST_EVENTS, _LONGEST_EVENTS, _LONGEST_OUTPUT = 10_000, 64 * 1024**2, 16 * 1024**2
_LEFT_OUT = "[Cut here: one run may leave no more.]\n"


class Recorder:
    """Records one run. `tell` gets each event, masked, as JSON. Writes the artifacts that ansible-runner does not."""

    def __init__(self, job: JobMessage, tell: Callable[[str], None]) -> None:
        self._job = job
        self._tell = tell
        content = Path(job["role"] or job["playbook"] or "")
        names = [*job["names"], *content.parts, *Path(job["folder"]).parts]
        self._masker = Masker(job["secrets"], names, REQUEUE_RESULTS)
        self._folder = Path(job["folder"])
        self.artifacts = self._folder / "artifacts" / job["ident"]
        self._printed: list[str] = []
        self._printed_size = 0
        self._is_without = False
        self._events_kept = self._events_size = 0

    def arguments(self) -> JsonObject:
        """For ansible_runner's `run` or `init_runner`."""
        job = self._job
        playbook: str | list[JsonObject] | None = job["playbook"]
        if job["role"]:
            play: JsonObject = {"hosts": "localhost", "roles": [{"name": Path(job["role"]).name}]}
            if not job["gather_facts"]:
                play["gather_facts"] = False
            playbook = [play]
        return {
            "private_data_dir": job["folder"],
            # Where ansible-playbook works: ansible.cfg is looked for there, and relative paths in arguments and variables
            # mean what they mean to who started the operator. Tasks work in the playbook's folder, as ever.
            "project_dir": os.getcwd(),
            "ident": job["ident"],
            "playbook": playbook,
            "envvars": dict(job["environment"]),
            "verbosity": job["verbosity"] or None,
            "quiet": True,
            # The printed text goes through the masker instead.
            "settings": {"suppress_output_file": True, "pexpect_timeout": 1},
            "suppress_env_files": True,
            "event_handler": self.handle,
            "status_handler": self._started,
            "cancel_callback": lambda: False,
        }

    def handle(self, event: JsonObject) -> bool:
        """Changes the event itself, so that what ansible-runner writes to the artifacts is masked as well."""
        event.update(json.loads(self.record(json.dumps(event, default=str))))
        return True

    def record(self, event: str, printed: str | None = None) -> str:
        """The event, masked, as it was told. `printed` is its text, if that is known."""
        masked = self._masker.mask_json(event)
        if len(masked) > LONGEST_EVENT:
            masked = json.dumps(shortened(json.loads(masked)))
        self._tell(masked)
        if printed is None or masked is not event:
            printed = json.loads(masked).get("stdout")
        if printed and self._printed_size <= _LONGEST_OUTPUT:
            self._printed_size += len(printed)
            self._printed.append(printed + "\n" if self._printed_size <= _LONGEST_OUTPUT else _LEFT_OUT)
        return masked

    def masked(self, text: str) -> str:
        return str(self._masker.mask(text))

    def keep_event(self, counter: int, uuid: str, text: str) -> None:
        """Write down an event, as it was told."""
        self._events_kept += 1
        self._events_size += len(text)
        if self._events_kept <= _MOST_EVENTS and self._events_size <= _LONGEST_EVENTS:
            self.keep(f"job_events/{counter}-{uuid}.json", text)
        else:
            self.keep("job_events/left-out.txt", _LEFT_OUT)

    def close(self) -> str:
        """Write down what was printed, and return it."""
        text = "".join(self._printed)
        self.keep("stdout", text)
        return text

    def keep(self, name: str, text: str) -> None:
        """Write one of the artifacts, if any are wanted. Where there is no room for it, the run goes on without."""
        if self._job["artifacts"]:
            try:
                write_private(f"{self.artifacts}/{name}", text)
            except OSError as error:
                told, self._is_without = self._is_without, True
                # What is written there is an event again, of a run in the warm process.
                if not told:
                    sys.stderr.write(f"Artifacts are left out: {error}\n")

    def _started(self, status: JsonObject, **_: object) -> None:
        # By now ansible-runner has written down the command and the environment that it runs with.
        if status["status"] == "running":
            path = self.artifacts / "command"
            with contextlib.suppress(OSError, ValueError):
                path.write_text(json.dumps(self.redacted(json.loads(path.read_text()))))

    def redacted(self, record: JsonObject) -> JsonObject:
        """ansible-runner records the whole environment; what a pod gets as its environment is often secret."""
        known = {"PATH", "HOME", "LANG", "KUBECONFIG", "K8S_AUTH_KUBECONFIG", *self._job["environment"]}
        kept = {name: value for name, value in record["env"].items() if name in known or name.startswith("ANSIBLE_")}
        return {**record, "env": kept}


def shortened(event: JsonObject) -> JsonObject:
    """The event with its long parts cut, and told as such. What decides about the run is short, and stays."""
    data = dict(event.get("event_data") or {})
    result = data.pop("res", None)
    data = _short_values(data)
    if isinstance(result, dict):
        data["res"] = _short_values(result)
    elif result is not None:
        data["res"] = _short("res", result)
    return {**_short_values({name: value for name, value in event.items() if name != "event_data"}), "event_data": data}


def _short_values(values: JsonObject) -> JsonObject:
    return {name: _short(name, value) for name, value in values.items()}


def _short(name: str, value: object) -> object:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}… [cut here: {len(value)} characters]"
    if not isinstance(value, dict | list):
        return value
    size = len(json.dumps(value))
    return value if size <= _LONGEST_VALUE else f"[{name} is left out here: {size} characters]"
