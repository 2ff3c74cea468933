"""Which of the status's fields the CRDs accept, learned from the API server's answers.

Next on the way: `runner.resource.conditions`.
"""

from __future__ import annotations

from runner.resource import conditions
from runner.resource.conditions import Status
from runner.resource.metadata import GroupVersionKind


class StatusSchemas:
    """By kind: whether its status may have an observedGeneration, and whether its conditions must have a reason."""

    def __init__(self) -> None:
        self._without_generation: set[GroupVersionKind] = set()
        self._with_reasons: set[GroupVersionKind] = set()

    def fit(self, gvk: GroupVersionKind, status: Status, generation: int | None) -> Status:
        """The status as the kind's schema accepts it, as far as that is known, with the generation where it may have one."""
        if gvk in self._with_reasons:
            status = conditions.with_reasons(status)
        if generation is not None and gvk not in self._without_generation:
            status = {**status, "observedGeneration": generation}
        return status

    def learn(self, gvk: GroupVersionKind, refusal: str, status: Status, generation: int | None) -> bool:
        """Learn from a refusal of this status; False if there is nothing that could be changed for it."""
        # An observedGeneration may be the CRD's own field, of another type.
        can_leave_out = generation is not None and gvk not in self._without_generation
        can_fill = gvk not in self._with_reasons and conditions.with_reasons(status) != status
        # The server names the fields; the message of a validation rule need not.
        named = [name for name in ("observedGeneration", "conditions") if f"status.{name}" in refusal]
        if can_fill and (not named or "conditions" in named):
            self._with_reasons.add(gvk)
            return True
        if can_leave_out and (not named or "observedGeneration" in named):
            self._without_generation.add(gvk)
            return True
        return False

    def accepted(self, gvk: GroupVersionKind, status: Status, generation: int | None) -> None:
        """Learn from the status that was stored: the server drops the fields that the CRD does not have."""
        if generation is not None and "observedGeneration" not in status:
            self._without_generation.add(gvk)
