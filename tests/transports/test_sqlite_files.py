"""SQLite's files: where they may be, what is refused, and what happens when somebody takes them away."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlite_ground import broken_laws, claim, item, items, made, opened, settle

from postbus.address import Address, Settings
from postbus.errors import ConfigError, InvalidName, TransportBroken, TransportError, TransportFull
from postbus.transport import Refused, Stored, WorkerInfo
from postbus.transports.sqlite import connect, files


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://shop.db", "sqlite:///shop.db"),
        ("sqlite:///shop.db?durability=paper", "'disk' or 'os'"),
        ("sqlite:///shop.db?sync=off", "durability"),
        ("sqlite:///shop.db?busy_timeout=soon", "busy_timeout"),
        ("sqlite:///shop.db?busy_timeout=-1", "busy_timeout"),
        ("sqlite:///shop.db?force=yes", "0 or 1"),
    ],
)
def test_a_url_that_makes_no_sense_says_what_would(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        connect(Address.parse(url), Settings())


def test_a_namespace_cannot_be_sqlites_own() -> None:
    with pytest.raises(ConfigError, match="SQLite's own"):
        connect(Address.parse("sqlite:///shop.db"), Settings(namespace="sqlite_x"))
    with pytest.raises(InvalidName):
        connect(Address.parse("sqlite:///shop.db"), Settings(namespace='a"; DROP TABLE b; --'))


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"directory .*nowhere does not exist"):
        await made(tmp_path / "nowhere" / "shop.db").open()
    with pytest.raises(ConfigError, match="is a directory"):
        await made(tmp_path).open()


async def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, " * 100)
    with pytest.raises(ConfigError, match="no SQLite database"):
        await made(path).open()
    assert path.read_text().startswith("Dear database")


async def test_tables_of_a_newer_format_ask_for_a_newer_postbus(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE postbus_meta SET format = 99")
    connection.close()
    with pytest.raises(ConfigError, match="upgrade postbus"):
        await made(path).open()


async def test_namespaces_that_sqlite_takes_for_one_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    await (await opened(path, namespace="Shop")).close()
    with pytest.raises(ConfigError, match="only in case"):
        await made(path, namespace="shop").open()


async def test_namespaces_with_dots_and_dashes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    one = await opened(path, namespace="a.b-c:d")
    other = await opened(path, namespace="a.b")
    await one.append(items(3))
    assert len((await claim(one)).deliveries) == 3
    assert not (await claim(other)).deliveries
    await one.close()
    await other.close()


async def test_what_one_transport_wrote_another_reads_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    first = await opened(path)
    await first.append(items(3))
    await first.close()
    second = await opened(path)
    assert [d.envelope.body for d in (await claim(second)).deliveries] == [b"0", b"1", b"2"]
    await second.close()


# -- network file systems

_MOUNTS = textwrap.dedent("""\
    22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
    30 22 0:40 / /srv/shared\\040files rw shared:2 - nfs4 server:/x rw
    31 22 0:41 / /srv/shared\\040files/local rw - xfs /dev/vdb rw
    32 22 0:42 / /home rw - ext4 /dev/vdc rw
    33 22 0:43 / /home rw - fuse.sshfs me@there rw
    a line of another kind
    """)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/shop.db", "ext4"),
        ("/srv/shared files/shop.db", "nfs4"),
        ("/srv/shared files/local/shop.db", "xfs"),
        ("/srv/shared filesystem/shop.db", "ext4"),
        ("/home/me/shop.db", "fuse.sshfs"),
    ],
)
def test_the_innermost_and_latest_mount_says_what_a_file_is_on(path: str, kind: str) -> None:
    assert files.file_system(Path(path), _MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
async def test_a_network_file_system_is_refused_unless_forced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "file_system", lambda *_: kind)
    with pytest.raises(ConfigError, match=f"network file system .{kind}"):
        await made(tmp_path / "shop.db").open()
    assert not (tmp_path / "shop.db").exists()
    await (await opened(tmp_path / "shop.db", options="?force=1")).close()


# -- a file that goes away


@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_is_accepted_into_a_file_that_was_taken_away(replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    transport = await opened(path)
    renewer = transport.renewer()
    assert await transport.append([item()]) == [Stored(1)]
    await transport.wait(["s"], 1)
    waiting = asyncio.create_task(transport.wait(["s"], 30))
    path.unlink()
    if replaced:
        await (await opened(path)).close()
    for act in (transport.append([item()]), claim(transport), waiting, transport.wait(["s"], 1)):
        with pytest.raises(TransportBroken, match="restart this process"):
            await act
    with pytest.raises(TransportBroken):
        transport.append_now([item()], 1)
    with pytest.raises(TransportBroken):
        renewer.beat(_worker())
    await transport.close()


def _worker() -> WorkerInfo:
    return WorkerInfo(
        owner="w", host="h", pid=1, version="0", started_at=datetime.now(UTC), subscriptions=("s",), concurrency=1
    )


# -- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode()}")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_refuses_and_the_process_goes_on(small_disk: Path) -> None:
    path = small_disk / "shop.db"
    transport = await opened(path)
    stored = 0
    while isinstance((answer := (await transport.append([item(b"x" * 20_000)]))[0]), Stored):
        stored += 1
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, TransportFull)
    assert isinstance(transport.append_now([item(b"x" * 20_000)], 1)[0], Refused)
    try:  # a claim needs a little room too: it may find it, or say that it did not
        taken = list((await claim(transport, limit=1)).deliveries)
    except TransportError:
        taken = []
    await asyncio.to_thread(lambda: subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True))
    assert await transport.append([item()]) == [Stored(1)]
    taken += (await claim(transport, limit=1000)).deliveries
    assert len(taken) == stored + 1
    assert set(await settle(transport, taken)) == {"Settled"}
    await transport.close()
    assert broken_laws(path) == []


async def test_the_log_is_cut_once_a_long_reader_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    log = tmp_path / "shop.db-wal"
    transport = await opened(path)
    writer = transport._open_house().writer
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM postbus_event").fetchall()
    await transport.append(items(2000))
    assert await asyncio.to_thread(writer.fold), "held up by the reader"
    assert log.stat().st_size > 100_000
    reader.close()
    assert not await asyncio.to_thread(writer.fold)
    assert log.stat().st_size == 0
    await transport.close()


_SYNCED = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from sqlite_ground import claim, item, opened, settle

async def main():
    transport = await opened(Path({path!r}), options="?durability={durability}")
    await transport.append([item()])
    os.path.exists("/before")
    await transport.append([item()])
    os.path.exists("/between")
    transport.append_now([item()], 1)
    os.path.exists("/after")
    claimed = await claim(transport)
    os.path.exists("/leapt")
    (delivery,) = (await claim(transport)).deliveries or claimed.deliveries[:1]
    await transport.append([item()])
    os.path.exists("/settling")
    await settle(transport, [delivery])
    os.path.exists("/settled")
    await claim(transport)
    os.path.exists("/claimed")
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.parametrize(("durability", "synced"), [("disk", True), ("os", False)])
def test_what_is_accepted_was_forced_to_disk_if_so_promised(durability: str, synced: bool, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace, to see what reaches the disk")
    trace = tmp_path / "trace"
    program = _SYNCED.format(here=str(Path(__file__).parent), path=str(tmp_path / "shop.db"), durability=durability)
    watched = "trace=pwrite64,fdatasync,fsync,stat,newfstatat,statx"
    done = subprocess.run(
        ["strace", "-f", "-y", "-e", watched, "-o", trace, sys.executable, "-c", program],
        capture_output=True,
        check=False,
        timeout=50,
    )
    if b"Operation not permitted" in done.stderr:
        pytest.skip("strace is not permitted here")
    assert done.returncode == 0, done.stderr.decode()
    text = trace.read_text(errors="replace")
    steps = [("/before", "/between"), ("/between", "/after"), ("/after", "/leapt"), ("/settling", "/settled")]
    for start, end in [*steps, ("/settled", "/claimed")]:
        calls = [
            line for line in text.partition(f'"{start}"')[2].partition(f'"{end}"')[0].splitlines() if "-wal>" in line
        ]
        last_write = max(number for number, line in enumerate(calls) if "pwrite64" in line)
        after = [line for line in calls[last_write:] if "fdatasync" in line or "fsync" in line]
        # A claim need not outlive a power loss, except the first, whose fence tells this process from all before.
        assert bool(after) is (synced and end != "/claimed"), calls


# -- many at once


def _open_and_close(path: str, begin: int) -> None:
    os.read(begin, 1)
    asyncio.run(_opened_once(Path(path)))


async def _opened_once(path: Path) -> None:
    transport = await opened(path)
    await transport.append([item()])
    await transport.close()


def test_many_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begin, go = os.pipe()
    path = tmp_path / "shop.db"
    processes = [context.Process(target=_open_and_close, args=(str(path), begin)) for _ in range(8)]
    for process in processes:
        process.start()
    os.write(go, b"x" * len(processes))
    for process in processes:
        process.join(30)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM postbus_meta").fetchall() == [(1,)]
        assert connection.execute("SELECT count(*) FROM postbus_event").fetchall() == [(len(processes),)]
    connection.close()
    os.close(begin)
    os.close(go)


async def test_only_the_file_and_its_turnstile_and_this_boots_workers_are_left(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    old = tmp_path / "shop.db-workers-000000000000"
    for name in (old, old.with_name(old.name + "-wal")):
        name.touch()
    transport = await opened(path)
    await transport.append(items(3))
    await transport.close()
    left = sorted(entry.name for entry in tmp_path.iterdir())  # noqa: ASYNC240 - a look at a few files
    assert [name.partition("workers-")[0] for name in left] == ["shop.db", "shop.db-turn", "shop.db-"]
    assert not old.exists()
