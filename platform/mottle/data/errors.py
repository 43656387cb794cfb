"""What can go wrong with a user's data."""

from mottle.core.errors import ConfigError


class DataError(ConfigError):
    """Data that cannot be trained on as it is: empty, of an unknown kind, changed, or not collatable. Says what to do."""


class OverlapError(DataError):
    """Two sets of data that must be disjoint share rows."""
