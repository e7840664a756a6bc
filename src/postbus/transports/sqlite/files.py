"""The files beside each other: which file system they are on, whether they are still the same, which boot this is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ...errors import ConfigError, TransportBroken

__all__ = ["Place", "boot", "file_system", "refuse_network"]

# SQLite's WAL needs shared memory and honest locks between all who open the file.
_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "smb2", "smb3",
        "smbfs", "vboxsf", "prl_fs",
    }
)  # fmt: skip
_NETWORK_FUSE = ("sshfs", "s3fs", "gcsfuse", "rclone", "glusterfs", "juicefs", "goofys", "davfs", "blobfuse")


class Place:
    """One database file by its path, and whether that path still leads to the file that was opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """Take the file that is there now as the right one."""
        found = os.stat(self.path)
        self._identity = (found.st_dev, found.st_ino)

    def check(self) -> None:
        """Raise when the file was deleted or replaced: what is written to it now would vanish without an error.

        Raises:
            TransportBroken: naming the file.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            raise TransportBroken(f"{self.path} was deleted while it was open: restart this process") from None
        except OSError as error:
            raise TransportBroken(f"{self.path} cannot be looked at: {error}; restart this process") from error
        if self._identity is not None and (found.st_dev, found.st_ino) != self._identity:
            raise TransportBroken(f"{self.path} was replaced by another file while it was open: restart this process")


def boot() -> str:
    """Which boot of this machine this is; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def refuse_network(path: str) -> None:
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
    kind = file_system(os.path.realpath(path), mounts)
    if kind in _NETWORK or (kind.startswith("fuse") and any(name in kind for name in _NETWORK_FUSE)):
        raise ConfigError(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not hold and events would be lost: "
            f"use a local disk, or a server transport; ?force=1 if only one machine ever opens it"
        )


def file_system(path: str, mounts: str) -> str:
    """The type of the file system that holds `path`, by the text of /proc/self/mountinfo; empty when not found."""
    best, kind = "", ""
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the same point mounted again hides what was there
            best, kind = point, after.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text


def forget_other_boots(path: str, kept: str) -> None:
    """Delete the sidecar files of boots that are over: nobody who wrote in them is alive."""
    folder, name = os.path.split(path)
    for entry in os.listdir(folder):
        if entry.startswith(f"{name}-workers-") and not entry.startswith(os.path.basename(kept)):
            with suppress(OSError):  # another process deletes them too
                os.unlink(os.path.join(folder, entry))
