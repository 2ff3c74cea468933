"""The error of the development cluster."""

from runner.errors import RolerunnerError


class DevclusterError(RolerunnerError):
    """A development cluster could not be started, found or used; `str()` says what to do."""
