"""Where a file is written: whole or not at all, and in place of nothing but a file.

Everything that is written goes through `staged`. A symbolic link stays, and what it leads to is replaced; a file that
was there leaves its permissions and owner to the new one.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from passes.errors import ExportError

# Where Linux shows the open files of this process.
_DESCRIPTORS = Path("/proc/self/fd")

_KINDS = (
    (stat.S_ISDIR, "a folder", "name a file in it"),
    (stat.S_ISFIFO, "a pipe", "name a file"),
    (stat.S_ISSOCK, "a socket", "name a file"),
    (stat.S_ISCHR, "a device", "name a file"),
    (stat.S_ISBLK, "a device", "name a file"),
)


def check_target(path: Path, inputs: Iterable[Path] = ()) -> Path:
    """The file that is replaced when `path` is written: what a symbolic link leads to, else the path itself.

    Raises ExportError unless a file can be written there with the permissions and owner of the one that it replaces,
    and where that is one of `inputs`, the files that are read.
    """
    try:
        found = _stat(path)
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        folder = _stat(target.parent)
        read = {file: _stat(file) for file in inputs}
    except (OSError, ValueError) as error:  # a name that is too long, links in a circle, a character that no name has
        fault = error.strerror if isinstance(error, OSError) else error
        raise ExportError(f"the output {path} cannot be written: {fault}", remedy="choose another file") from error
    if found is not None:
        _check_replaceable(path, target, found)
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise ExportError(
            f"the output folder {target.parent} does not exist", remedy=f"create it first: mkdir -p {target.parent}"
        )
    if not os.access(target.parent, os.W_OK):
        raise ExportError(f"the output folder {target.parent} is not writable", remedy="choose another folder")
    for file, own in read.items():
        if found is not None and own is not None and os.path.samestat(found, own):
            raise ExportError(f"the output {path} is also read, as {file}", remedy="name another file for the output")
    return target


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_replaceable(path: Path, target: Path, found: os.stat_result) -> None:
    for is_kind, kind, remedy in _KINDS:
        if is_kind(found.st_mode):
            raise ExportError(f"the output {path} is {kind}", remedy=remedy)
    if not os.access(target, os.W_OK):
        raise ExportError(f"the output {path} is write-protected", remedy="allow writing, or choose another file")
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        is_own = found.st_uid == os.geteuid() and found.st_gid in (os.getegid(), *os.getgroups())
        if not is_own:
            raise ExportError(
                f"the output {path} belongs to another user or group, and would no longer when it is replaced",
                remedy="remove it first, or choose another file",
            )


@dataclass(slots=True)
class Staging:
    """A file on its way to its place `target`: open for writing, and where it can be read meanwhile."""

    file: BinaryIO
    path: Path
    target: Path


@contextmanager
def staged(path: Path, *, named: bool = False) -> Iterator[Staging]:
    """A new file that takes the place of `path` when the block ends well, and vanishes otherwise.

    Where the system can (Linux), the file has no name until it is whole, so that not even a killed process leaves
    anything behind; `named` asks for one at once, which a reader needs that looks for other files beside it.

    Raises ExportError as `check_target` does, and where the file cannot be written.
    """
    target = check_target(path)
    before = _stat(target)
    mode = 0o666 if before is None else 0o600  # the kernel takes from a new file's what umask and folder say
    try:
        staging = (None if named else _open_unnamed(target, mode)) or _open_named(target, mode)
    except OSError as error:
        raise ExportError(
            f"the output folder {target.parent} is not writable: {error.strerror}", remedy="choose another folder"
        ) from error
    name = staging.path if staging.path.parent != _DESCRIPTORS else None
    try:
        with staging.file as file:
            made = os.fstat(file.fileno())
            yield staging
            file.flush()
            if name is None:
                name = _partial(target)
                os.link(staging.path, name, src_dir_fd=file.fileno())  # that makes it follow the link in /proc
        if before is None:
            name.chmod(stat.S_IMODE(made.st_mode))  # whoever was given the name may have put another file there
        else:
            _take_over(name, before, target)
        check_target(staging.target)  # it may have become another thing meanwhile
        os.replace(name, staging.target)
    except OSError as error:
        raise ExportError(
            f"{path} could not be written: {error.strerror}", remedy="free some space, or choose another folder"
        ) from error
    finally:
        if name is not None:
            with suppress(OSError):
                name.unlink(missing_ok=True)


def _take_over(name: Path, before: os.stat_result, target: Path) -> None:
    """Gives a file the owner, permissions and extended attributes, such as access lists, of the one it replaces."""
    made = name.stat()
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        os.chown(name, before.st_uid, before.st_gid)
    name.chmod(stat.S_IMODE(before.st_mode))
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for attribute in os.listxattr(target):
                with suppress(OSError):  # some are the system's own
                    os.setxattr(name, attribute, os.getxattr(target, attribute))


def _open_unnamed(target: Path, mode: int) -> Staging | None:
    """A file without a name in the folder of `target`, or None where there is no such thing."""
    if not hasattr(os, "O_TMPFILE") or not _DESCRIPTORS.is_dir():
        return None
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_RDWR, mode)
    except OSError:  # not every file system has it
        return None
    return Staging(os.fdopen(descriptor, "wb"), _DESCRIPTORS / str(descriptor), target)


def _open_named(target: Path, mode: int) -> Staging:
    name = _partial(target)
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    return Staging(os.fdopen(descriptor, "wb"), name, target)


def _partial(target: Path) -> Path:
    """A name beside the target for what is not whole yet; of one length, however long the target's is."""
    return target.with_name(f".{secrets.token_hex(8)}.partial")


def name_beside(path: Path, suffix: str) -> Path:
    """A file beside `path` with its name and a suffix; a name too long for the file system is cut."""
    limit = os.pathconf(path.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    return path.with_name(os.fsencode(path.name)[: limit - len(suffix)].decode(errors="ignore") + suffix)
