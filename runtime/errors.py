"""Every exception attar raises on purpose, drawn as one tree.

AttarError                  one clear message that names the thing and the remedy; the CLI exits with 2
├── DataError               a data file or an example in it cannot be used
├── ModelError              a model folder cannot be read or its architecture not imported
├── BundleError             a bundle is missing, truncated, altered or too new
├── SettingsError           an unknown or impossible setting, in a recipe or an argument
├── MissingExtraError       an optional package is not installed; names the pip command
├── AssetError              a demo asset cannot be fetched or is not what it should be
├── ParityError             an exported file does not compute what PyTorch computes
├── GateError               the accuracy gate was not passed
├── OverloadedError         a queue is full; says when to try again
├── DeadlineError           a request was not answered within its time
└── ClosedError             a batcher was closed, or it or a model belongs to the process that this was forked from
"""


class AttarError(Exception):
    """Base of all of attar's own errors."""


class DataError(AttarError):
    """A data file, or an example in it, cannot be used."""


class ModelError(AttarError):
    """A model folder cannot be read, or its architecture cannot be imported."""


class BundleError(AttarError):
    """A bundle is missing, truncated, altered or of an unknown version."""


class SettingsError(AttarError):
    """A setting is unknown or impossible."""


class MissingExtraError(AttarError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}: pip install 'attar[{extra}]'")


class AssetError(AttarError):
    """A demo asset cannot be fetched, or is not what it should be."""


class ParityError(AttarError):
    """An exported file does not compute what PyTorch computes."""


class GateError(AttarError):
    """The accuracy gate was not passed."""


class OverloadedError(AttarError):
    """A queue is full; `retry_after` is an estimate of the seconds until it will have been worked off."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(AttarError):
    """A request was not answered within its time."""


class ClosedError(AttarError):
    """A batcher was closed, or it or a model belongs to the process that this one was forked from."""
