"""The device: serves a snapshot ELF image of a kernel's symbols as ksyms(4) does."""

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import (
    ImageTooLargeError,
    KsymsFSError,
    ManifestError,
    MountError,
    OptionError,
    RestrictedError,
    SnapshotError,
    SourceChangingError,
    SourceError,
    SourceFormatError,
)
from ksymsfs.image import build_image
from ksymsfs.linker import LinkerFile

__all__ = [
    "ElfFormat",
    "ImageTooLargeError",
    "KsymsFSError",
    "LinkerFile",
    "ManifestError",
    "MountError",
    "OptionError",
    "RestrictedError",
    "SnapshotError",
    "SourceChangingError",
    "SourceError",
    "SourceFormatError",
    "build_image",
]

__version__ = "0.1.0"
