"""The errors a user can cause: each says what was got, what was expected and what to do.

The command line prints the message of a :class:`BertcraftError` alone and exits with status 2.
"""


class BertcraftError(Exception):
    """Base of every error that has a one-message explanation."""


class CheckpointError(BertcraftError, ValueError):
    """A model folder that cannot be read as the model it claims to be."""


class DataError(BertcraftError, ValueError):
    """A corpus, task or text that is missing, damaged or unusable."""


class InputError(BertcraftError, ValueError):
    """Arguments (token ids, shapes, options) outside what a function accepts."""


class TrainingError(BertcraftError, RuntimeError):
    """A training run that cannot go on (for example a loss that is not finite)."""
