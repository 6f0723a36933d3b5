"""Time of one search over random unit vectors: this package, and LanceDB's exact search where it is installed.

    python benchmarks/search_speed.py --rows 100000 --width 384

p50 and p95 are over all queries, by the clock and, where other jobs run beside, by CPU time; as many threads as
``OMP_NUM_THREADS`` says. ``--lists`` also builds the lists of an approximate search, over vectors in
clusters, and prints their measured recall.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oskar.embedding.file import EmbeddingHeader, EmbeddingRow, Embeddings, write_embeddings
from oskar.searching.database import open_database
from oskar.searching.indexing import IndexConfig, index
from oskar.searching.nearest import SpaceQuery, nearest

N_TOP, N_CLUSTERS = 10, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--lists", action="store_true")
    asked = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(asked.rows, asked.width, generator=generator)
    if asked.lists:
        centres = torch.randn(N_CLUSTERS, asked.width, generator=generator)
        vectors = centres[torch.randint(N_CLUSTERS, (asked.rows,), generator=generator)] + 0.7 * vectors
    queries = torch.nn.functional.normalize(torch.randn(asked.queries, asked.width, generator=generator), dim=1)
    with tempfile.TemporaryDirectory() as folder:
        database = build(Path(folder), vectors, approximate_above=asked.rows - 1 if asked.lists else asked.rows)
        with open_database(database) as opened:
            (space,) = opened.spaces.values()
            report("oskar, exact", lambda q: nearest([SpaceQuery(space, q)], N_TOP, is_exact=True), queries)
            if asked.lists:
                report("oskar, lists", lambda q: nearest([SpaceQuery(space, q)], N_TOP), queries)
                print(opened.card.spaces[0].how)
            time_lance(Path(folder), space.vectors, queries)


def build(folder: Path, vectors: Tensor, approximate_above: int) -> Path:
    header = EmbeddingHeader(
        modality="video", pooling="mean", width=vectors.shape[1], model_sha256="none", preprocessing_sha256="none"
    )
    rows = tuple(EmbeddingRow(row=i, clip_id=str(i), caption=f"clip {i}") for i in range(len(vectors)))
    write_embeddings(folder / "vectors.safetensors", Embeddings(header=header, vectors=vectors, rows=rows))
    start = time.perf_counter()
    index([folder / "vectors.safetensors"], folder / "db", IndexConfig(approximate_above=approximate_above))
    print(f"index of {len(vectors)} rows of {vectors.shape[1]} written in {time.perf_counter() - start:.1f} s")
    return folder / "db"


def report(name: str, search: Callable[[Tensor], object], queries: Tensor) -> None:
    search(queries[0])
    times, cpu_times = [], []
    for query in queries:
        start, cpu_start = time.perf_counter(), time.process_time()
        search(query)
        times.append(1000 * (time.perf_counter() - start))
        cpu_times.append(1000 * (time.process_time() - cpu_start))
    (median, p95), (cpu_median, cpu_p95) = np.percentile(times, [50, 95]), np.percentile(cpu_times, [50, 95])
    n = f"{len(queries)} queries, {torch.get_num_threads()} threads"
    print(f"{name}: p50 {median:.1f} ms, p95 {p95:.1f} ms (CPU {cpu_median:.1f}, {cpu_p95:.1f}) over {n}")


def time_lance(folder: Path, vectors: Tensor, queries: Tensor) -> None:
    try:
        import lancedb
        import pyarrow as pa
    except ModuleNotFoundError:
        print("LanceDB is not installed: not compared")
        return
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1).numpy()), vectors.shape[1])
    table = lancedb.connect(folder / "lance").create_table("t", pa.table({"vector": lists}))
    report("LanceDB, exact", lambda q: table.search(q.numpy()).limit(N_TOP).to_arrow(), queries[:20])


if __name__ == "__main__":
    main()
