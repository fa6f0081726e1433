"""The named errors of the package: each says what happened, where, what was got, what was expected and what to do."""


class MeddapError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigurationError(MeddapError):
    """A configuration key or value is not valid; the message names the nearest valid one."""


class UnreadableImage(MeddapError):
    """An image file cannot be read, or reading it would break a stated limit."""


class ChangedImage(MeddapError):
    """The pixels of an image are not those that its record was written for."""


class RecordsError(MeddapError):
    """A records file or a single record breaks the contract of ``docs/contracts.md``."""


class StageError(MeddapError):
    """A stage cannot start, go on or finish."""


class ForeignOutput(StageError):
    """An output folder belongs to another configuration, another input or another program."""


class FolderInUse(StageError):
    """Another process is writing into the output folder."""


class DiskFull(StageError):
    """There is no space left for a file; what was there before is untouched."""


class LeakedRecords(StageError):
    """A validation, test or unseen image is among the training images of a trained thing."""


class EmptyClass(StageError):
    """Selection left nothing of a class; the message says what removed it and what to change."""


class NonFiniteLoss(StageError):
    """A loss became NaN or infinite; the last checkpoint is finite."""


class Interrupted(StageError):
    """SIGINT or SIGTERM arrived; a checkpoint was written and the same command goes on from it."""


class BadBase(MeddapError):
    """A base folder is not a Stable Diffusion folder that this package can use."""


class BadAdapter(MeddapError):
    """An adapter file or folder is not a complete, finite adapter of the loaded base."""


class MissingPackage(MeddapError):
    """An optional package is needed; the message names what to install."""
