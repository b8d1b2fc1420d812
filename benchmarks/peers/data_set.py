"""Answers the questions of `benchmarks/run data-set` with DuckDB and datasketch, in one thread, as JSON.

data_set.py choose FILE             leaves out duplicates of the candidates in a CSV file
data_set.py near-duplicates FILE    signs sets of shingles, and finds which of the first few are near one of the others
data_set.py scan FOLDER             reads all parts of a lake
"""

import hashlib
import json
import pathlib
import statistics
import sys
import time

import datasketch
import duckdb
import numpy

ROUNDS = 3

# trainer-orchestrator/src/data_set/duplicates.rs as one query. Of equal corrections, that of the greatest weight stands
# for all, then the oldest.
CHOICE = """
CREATE OR REPLACE TABLE chosen AS
SELECT pair_id FROM candidates WHERE NOT unfit
QUALIFY row_number() OVER (
    PARTITION BY correction, person, opened_at // 86400000000 ORDER BY weight DESC, opened_at, pair_id
) = 1
"""

COLUMNS = {
    "pair_id": "VARCHAR",
    "correction": "VARCHAR",
    "person": "VARCHAR",
    "repository": "VARCHAR",
    "weight": "DOUBLE",
    "opened_at": "BIGINT",
    "unfit": "BOOLEAN",
}

# Pairs and weight by what people ask a lake for.
AGGREGATE = """
SELECT language, repository, reason, epoch_us(labeled_at) // 86400000000 AS day, count(*), sum(weight)
FROM read_parquet('{parts}') GROUP BY 1, 2, 3, 4
"""


def connect():
    return duckdb.connect(config={"threads": 1})


def timed(work, rounds=ROUNDS):
    """The median of the times that it takes, and what came out last."""
    seconds, result = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def choose(file):
    connection = connect()
    options = f"delim = ',', header = true, auto_detect = false, columns = {COLUMNS}"
    connection.execute(f"CREATE TABLE candidates AS SELECT * FROM read_csv('{file}', {options})").fetchall()
    # Fetched to its end: an open result would go on while the next is timed.
    seconds, _ = timed(lambda: connection.execute(CHOICE).fetchall())
    kept = connection.execute("SELECT pair_id FROM chosen ORDER BY pair_id").fetchall()
    digest = hashlib.sha256("".join(pair_id for (pair_id,) in kept).encode()).hexdigest()
    return {"seconds": seconds, "pairs": len(kept), "digest": digest, "version": duckdb.__version__}


def is_near(one, other, permille):
    common = len(one & other)
    return common * 1000 >= (len(one) + len(other) - common) * permille


def find(few, many, question, options):
    index = datasketch.MinHashLSH(num_perm=options["num_perm"], params=(question["bands"], question["rows"]))
    for number, signature in enumerate(datasketch.MinHash.generator(few, **options)):
        index.insert(number, signature)
    known, found = [frozenset(shingles) for shingles in few], [False] * len(few)
    for shingles, signature in zip(many, datasketch.MinHash.generator(many, **options)):
        numbers = [number for number in index.query(signature) if not found[number]]
        shingles = frozenset(shingles) if numbers else None
        for number in numbers:
            found[number] = is_near(known[number], shingles, question["permille"])
    return found


def near_duplicates(file):
    question = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
    sets, count = question["sets"], question["few"]
    permutations = tuple(numpy.array(question[name], dtype=numpy.uint64) for name in ("a", "b"))
    default = {"num_perm": len(question["a"]), "hashfunc": lambda shingle: shingle}
    # The scheme of the permutations that it is given: its only one before release 2.
    options = {**default, "permutations": permutations, "scheme": "legacy"}
    signatures_seconds, signatures = timed(lambda: datasketch.MinHash.bulk(sets, **options))
    default_seconds, _ = timed(lambda: datasketch.MinHash.bulk(sets, **default))
    found_seconds, found = timed(lambda: find(sets[:count], sets[count:], question, options))
    numbers = numpy.concatenate([signature.hashvalues for signature in signatures]).astype("<u4")
    return {
        "digest": hashlib.sha256(numbers.tobytes()).hexdigest(),
        "signatures_seconds": signatures_seconds,
        "default_seconds": default_seconds,
        "found_seconds": found_seconds,
        "found": found,
        "version": datasketch.__version__,
    }


def scan(folder):
    connection, parts = connect(), f"{folder}/*.parquet"
    everything = f"CREATE OR REPLACE TABLE everything AS SELECT * FROM read_parquet('{parts}')"
    whole_seconds, _ = timed(lambda: connection.execute(everything).fetchall())
    query = AGGREGATE.format(parts=parts)
    aggregate_seconds, rows = timed(lambda: connection.execute(query).fetchall())
    return {
        "groups": [[row[:4], row[4], row[5]] for row in rows],
        "whole_seconds": whole_seconds,
        "aggregate_seconds": aggregate_seconds,
        "version": duckdb.__version__,
    }


ANSWERS = {"choose": choose, "near-duplicates": near_duplicates, "scan": scan}


if __name__ == "__main__":
    json.dump(ANSWERS[sys.argv[1]](sys.argv[2]), sys.stdout)
