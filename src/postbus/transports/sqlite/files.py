"""The files beside each other: which file system they are on, whether they are still the same, which boot this is."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from ...errors import ConfigError, TransportBroken

__all__ = ["Place", "beside", "boot", "file_system", "forget_other_boots", "forget_sidecar", "refuse_network"]

# SQLite's write-ahead log needs shared memory and honest locks between all who open the file.
# The names of those where that is not so begin like this.
_NETWORK = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gpfs",
    "lustre",
    "nfs",
    "ocfs2",
    "prl_fs",
    "smb",
    "vboxsf",
    "fuse.blobfuse",
    "fuse.davfs",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
)


class Place:
    """One database file by its path, and whether that path still leads to the file that was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.name

    def remember(self) -> None:
        """Take the file that is there now as the right one."""
        found = self.path.stat()
        self._identity = (found.st_dev, found.st_ino)

    def check(self) -> None:
        """See that it is the one that was opened: what is written to another one vanishes without an error.

        Raises:
            TransportBroken: naming the file.
        """
        try:
            found = self.path.stat()
        except OSError as error:
            raise TransportBroken(f"{self.path} is gone ({error.strerror}): restart this process") from error
        if (found.st_dev, found.st_ino) != self._identity:
            raise TransportBroken(f"{self.path} was replaced by another file while it was open: restart this process")


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with something behind it."""
    return path.with_name(path.name + suffix)


def boot() -> str:
    """Which boot of this machine this is; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def forget_sidecar(path: Path) -> None:
    """Delete a sidecar file with its log."""
    for suffix in ("", "-wal", "-shm"):
        beside(path, suffix).unlink(missing_ok=True)


def forget_other_boots(main: Path, kept: Path) -> None:
    """Delete the sidecar files of boots that are over: nobody who wrote in them is alive."""
    for entry in main.parent.iterdir():
        if entry.name.startswith(f"{main.name}-workers-") and not entry.name.startswith(kept.name):
            with suppress(OSError):  # another process deletes them too
                entry.unlink()


def refuse_network(path: Path) -> None:
    """Refuse a path on a network file system.

    Raises:
        ConfigError: naming the file system and the option that allows it.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    kind = file_system(path.resolve(), mounts)
    if kind.startswith(_NETWORK):
        raise ConfigError(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not hold and events would be lost: "
            f"use a local disk, or a server transport; ?force=1 if only one machine ever opens it"
        )


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, by the text of /proc/self/mountinfo; empty when not found."""
    depth, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if not after or len(fields) < 5:
            continue
        point = Path(_unescaped(fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:  # mounted over, the later one is seen
            depth, kind = len(point.parts), after.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text
