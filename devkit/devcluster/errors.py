"""DevclusterError: something about a development cluster went wrong, and the text says what to do."""


class DevclusterError(Exception):
    """`str()` is meant for the user."""
