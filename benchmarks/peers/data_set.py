"""What others make of the same rows: DuckDB chooses a data set, datasketch looks for near-duplicates.

data_set.py FOLDER GATE_OPPORTUNITIES SIZE...   reads FOLDER/pairs-SIZE.jsonl and FOLDER/texts.jsonl, prints JSON
"""

import json
import pathlib
import sys
import time

import datasketch
import duckdb

# The rules of trainer-orchestrator/src/snapshot.rs, as one query: the newest opportunities that say what was wanted are
# held out, whatever is as new as they are is left out, what has no weight is left out, and pairs that choose to do
# nothing never outnumber pairs that refuse it. The oldest of those that choose it are dropped first, as there.
CHOICE = """
WITH pairs AS (SELECT DISTINCT ON (pair_id) * FROM read_parquet('{file}')),
judging AS (
    SELECT opportunity_id, opened_at FROM pairs ORDER BY opened_at DESC, opportunity_id DESC LIMIT {gate}
),
edge AS (SELECT min(opened_at) AS opened_at FROM judging),
training AS (
    SELECT pairs.* FROM pairs, edge
    WHERE pairs.opened_at < edge.opened_at AND weight > 0
),
silences AS (
    SELECT *, row_number() OVER (PARTITION BY reason = 'dismissed' ORDER BY opened_at DESC, pair_id) AS place
    FROM training
)
SELECT pair_id FROM silences
WHERE reason <> 'dismissed' OR place <= (SELECT count(*) FROM training WHERE reason = 'missed')
ORDER BY pair_id
"""


def choose(folder, size, gate):
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    rows, parquet = folder / f"pairs-{size}.jsonl", folder / f"pairs-{size}.parquet"
    connection.execute(
        f"COPY (SELECT * FROM read_json('{rows}', format = 'newline_delimited')) TO '{parquet}' (COMPRESSION zstd)"
    )
    started = time.perf_counter()
    chosen = connection.execute(CHOICE.format(file=parquet, gate=gate)).fetchall()
    return time.perf_counter() - started, len(chosen)


def near_duplicates(texts):
    started = time.perf_counter()
    index, found = datasketch.MinHashLSH(threshold=0.7, num_perm=128), 0
    for number, text in enumerate(texts):
        words = text.split()
        grams = {" ".join(words[place : place + 5]) for place in range(max(1, len(words) - 4))}
        sketch = datasketch.MinHash(num_perm=128)
        sketch.update_batch([gram.encode() for gram in grams])
        if index.query(sketch):
            found += 1
        else:
            index.insert(str(number), sketch)
    return len(texts) / (time.perf_counter() - started), found


def main():
    folder, gate, sizes = pathlib.Path(sys.argv[1]), int(sys.argv[2]), [int(size) for size in sys.argv[3:]]
    chosen = {size: choose(folder, size, gate) for size in sizes}
    with open(folder / "texts.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    rate, found = near_duplicates(texts)
    json.dump(
        {
            "duckdb_seconds": {size: seconds for size, (seconds, _) in chosen.items()},
            "duckdb_chosen": {size: count for size, (_, count) in chosen.items()},
            "minhash_texts_per_second": rate,
            "minhash_near_duplicates": found,
            "versions": f"DuckDB {duckdb.__version__}, datasketch {datasketch.__version__}",
        },
        sys.stdout,
    )


main()
