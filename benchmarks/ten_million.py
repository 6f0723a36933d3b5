"""Ten million clips in a Parquet manifest: opening, shuffling and sharding, in a process of its own.

    python benchmarks/ten_million.py [--rows 10000000] [--folder DIR]

The manifest is written once into DIR (default: a temporary folder). Time and memory are those of a fresh process
after its imports: opening with nothing cached, then the order of two epochs at places all over them and the shares
of eight ranks. Resident memory is the peak over the whole process, libraries and mapped pages included.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MEASURE = """
import resource, sys, time
import torch, pyarrow.parquet
from oskar.data.open import open_training
from oskar.data.order import EpochOrder
from oskar.recipes import recipe
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"after imports: {peak():.0f} MB")
settings = ["data.captions=none", 'tokens.modalities=["video"]', *sys.argv[2:]]
config = recipe("oskar-small").with_overrides(settings)
started, cpu = time.perf_counter(), time.process_time()
opened = open_training([sys.argv[1]], config)
seconds, own = time.perf_counter() - started, time.process_time() - cpu
print(f"opened {len(opened.reader):,} clips: {seconds:.2f} s, {own:.2f} s of CPU")
n, batch, ranks = len(opened.reader), 1024, 8
order = EpochOrder(n, 0)
for epoch in (0, 1):
    for step in range(0, n // batch, n // batch // 10):
        batch_order = order.at(epoch * n + step * batch, batch)
        shares = [batch_order[rank::ranks] for rank in range(ranks)]
        assert sum(map(len, shares)) == batch
names = [opened.reader.clip_id(i) for i in batch_order]
assert len(set(names)) == batch
print(f"with order, shards and {batch} names: {time.perf_counter() - started:.2f} s, "
      f"{time.process_time() - cpu:.2f} s of CPU, peak {peak():.0f} MB")
"""


def write_manifest(path: Path, n_rows: int, rows_at_once: int = 500_000) -> None:
    """Ids, paths, splits and labels; every fiftieth row is of the test split."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    writer = None
    for first in range(0, n_rows, rows_at_once):
        numbers = np.arange(first, min(first + rows_at_once, n_rows))
        digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 8, "0")
        folder = pc.utf8_slice_codeunits(digits, 0, 4)
        columns = {
            "clip_id": pc.binary_join_element_wise("clip", digits, "-"),
            "path": pc.binary_join_element_wise(pc.binary_join_element_wise("videos", folder, digits, "/"), "mp4", "."),
            "split": pa.array(np.where(numbers % 50 == 0, "test", "train")),
            "label_id": pa.array(numbers % 400),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        path = folder / f"rows-{options.rows}.parquet"
        if not path.exists():
            write_manifest(path, options.rows)
        print(f"{path.stat().st_size / 2**20:.0f} MB of Parquet")
        cache = f"data.cache_dir={temporary}/cache"
        for title, settings in (("no cache", []), ("filling the cache", [cache]), ("from the cache", [cache])):
            print(f"{title}:", flush=True)
            subprocess.run([sys.executable, "-c", MEASURE, str(path), *settings], check=True)


if __name__ == "__main__":
    main()
