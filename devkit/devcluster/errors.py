"""DevclusterError: something about a development cluster went wrong, and the text says what to do."""

from runner.errors import RolerunnerError


class DevclusterError(RolerunnerError):
    """`str()` is meant for the user."""
