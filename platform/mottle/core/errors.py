"""Mottle's own errors; they share one root."""


class MottleError(Exception):
    """Root of everything that Mottle raises on purpose."""


class ConfigError(MottleError, ValueError):
    """What the user asked for cannot be done; the message says what was wanted, what came and what to do."""


class UnknownNameError(ConfigError):
    """Something is called by a name that there is not; the message has the nearest one."""


class ProtocolError(MottleError):
    """A machine was driven into an impossible transition: a bug of ours, with its story."""
