"""What the harness raises when something outside it is missing or wrong; the message says what to do."""


class HarnessError(Exception):
    """Told to the user without a stack trace."""
