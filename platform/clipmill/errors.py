"""The one tree of errors that a user can mend.

Every error says what was got, what was wanted and what to do, in one line. The command
line prints that line and leaves with `exit_code`; nothing here knows about terminals.
"""


class ClipmillError(ValueError):
    """Something a user can mend, told as got, wanted and what to do."""

    exit_code = 1

    def __init__(self, got: str, wanted: str = "", todo: str = "") -> None:
        super().__init__(got, wanted, todo)  # positional, so that it survives pickling

    def __str__(self) -> str:
        got, wanted, todo = self.args
        parts = [got, f"wanted {wanted}" if wanted else "", todo]
        return "; ".join(" ".join(part.split()) for part in parts if part)


class UsageError(ClipmillError):
    """A command or call that cannot be meant."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or an override that is not a recipe."""


class StorageError(ClipmillError):
    """A path or a store that does not give or take what it should."""


class BusyError(ClipmillError):
    """A folder, port or run that someone else holds."""


class SourceError(ClipmillError):
    """Input videos, tables or folders that cannot be taken as they are."""


class VideoError(ClipmillError):
    """A file that cannot be decoded as the video it should be."""


class TooLongError(VideoError):
    """A video that goes on for longer, or holds more, than whoever answers it allows."""


class DataError(ClipmillError):
    """A dataset that is missing, damaged or not the one expected."""


class PlanError(ClipmillError):
    """A plan that cannot work on this data."""


class PluginError(ClipmillError):
    """A plugin that is missing, broken or does not keep the contract."""


class RunError(ClipmillError):
    """A run that cannot start, go on or be found."""


class RegistryError(ClipmillError):
    """A model version or alias that cannot be found or made."""
