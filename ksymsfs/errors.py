"""The exceptions of ksymsfs: one base, and a leaf wherever a caller would branch."""

from __future__ import annotations


class KsymsFSError(Exception):
    """Base class of every error that ksymsfs raises on purpose."""


class OptionError(KsymsFSError, ValueError):
    """Command line options that are wrong, or contradict each other."""


class SourceError(KsymsFSError, OSError):
    """A symbol source could not be read: *source* names it, *reason* says why."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class SourceFormatError(SourceError, ValueError):
    """A symbol source holds something that is not what it should be.

    *where* is the place inside the source in words: ``line 12``, ``offset 0x40``.
    """

    def __init__(self, source: str, where: str, reason: str) -> None:
        super().__init__(source, f"{where}: {reason}" if where else reason)
        self.where = where


class RestrictedError(SourceError, PermissionError):
    """The kernel hides its addresses (kernel.kptr_restrict) from this process."""


class SourceChangingError(SourceError, BlockingIOError):
    """A module is being loaded or unloaded: the symbols are between two states."""


class ManifestError(SourceFormatError):
    """A manifest describes something that no kernel could be."""


class SnapshotError(KsymsFSError, OSError):
    """No consistent snapshot within *attempts* tries (ksyms(4): ENXIO)."""

    def __init__(self, attempts: int, reason: str) -> None:
        super().__init__(f"no consistent snapshot in {attempts} tries: {reason}")
        self.attempts = attempts
        self.reason = reason

    def __str__(self) -> str:
        return f"no consistent snapshot in {self.attempts} tries: {self.reason}"


class ImageTooLargeError(KsymsFSError, MemoryError):
    """An image, or a part of one, exceeds its bound (ksyms(4): ENOMEM).

    *size* and *limit* are bytes, of *part*; the bound of the whole can be changed.
    """

    def __init__(self, size: int, limit: int, part: str = "") -> None:
        super().__init__(
            f"{part} of {size} bytes exceed what an image can have, {limit}"
            if part
            else f"an image of {size} bytes exceeds the limit of {limit}; "
            "raise it with --max-image"
        )
        self.size = size
        self.limit = limit
        self.part = part


class RefusedError(KsymsFSError, OSError):
    """The device refuses, with the *errno* that the manual gives for the *reason*.

    *quiet*: an ordinary answer, of which the log need not tell.
    """

    def __init__(self, errno: int, reason: str, *, quiet: bool = False) -> None:
        super().__init__(errno, reason)
        self.reason = reason
        self.quiet = quiet

    def __str__(self) -> str:
        return self.reason


class MountError(KsymsFSError, OSError):
    """The file system cannot be mounted; the message says what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason
