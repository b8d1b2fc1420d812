"""Reads a part of the lake with DuckDB, Polars and `datasets`, as a researcher would, and prints what each of them sees.

For each reader: the type of every column, and every row, sorted by position. Timestamps are microseconds since 1970 UTC,
bytes are hexadecimal digits, and numbers are the 64 bits of their representation: nothing is rounded on the way.
"""

import datetime
import json
import os
import struct
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets  # noqa: E402
import duckdb  # noqa: E402
import polars  # noqa: E402

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(value):
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, float):
        return str(int.from_bytes(struct.pack(">d", value), "big"))
    return value


def seen(types, rows):
    rows = [{name: plain(value) for name, value in row.items()} for row in rows]
    return {"types": types, "rows": sorted(rows, key=lambda row: row["position"])}


def with_duckdb(path):
    connection = duckdb.connect()
    part = connection.read_parquet(path)
    types = {name: str(kind) for name, kind in zip(part.columns, part.types)}
    # As a timestamp of Python, it would need one more package.
    shown = [f'epoch_us("{name}") AS "{name}"' if "TIME" in kind else f'"{name}"' for name, kind in types.items()]
    found = part.project(", ".join(shown)).fetchall()
    return seen(types, [dict(zip(types, row)) for row in found])


def with_polars(path):
    frame = polars.read_parquet(path)
    types = {name: str(kind) for name, kind in frame.schema.items()}
    times = [polars.col(name).dt.epoch("us") for name, kind in frame.schema.items() if isinstance(kind, polars.Datetime)]
    return seen(types, frame.with_columns(times).to_dicts())


def with_datasets(path):
    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
        types = {name: feature.dtype for name, feature in found.features.items()}
        rows = list(found)
    return seen(types, rows)


READERS = {"duckdb": with_duckdb, "polars": with_polars, "datasets": with_datasets}
print(json.dumps({name: read(sys.argv[1]) for name, read in READERS.items()}))
