"""词元库：语料大十六倍，占的内存仍在几十兆之内。

    python experiments/store_memory.py

同一段史书抄成几种篇幅，各在一个新进程里分词、写成库，再随机读几千行；量的是常驻内存的峰值比
动手之前多了多少。
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recording import record

SIZES = (1_000_000, 4_000_000, 16_000_000)
"""几种篇幅，字。"""
CHARS_PER_DOCUMENT = 500


def documents(text: str, size: int) -> Iterator[Any]:
    """流式地给出文档，合起来约 `size` 字；不把全文放进内存。"""
    from companion.corpus.document import Document

    for number in range(size // CHARS_PER_DOCUMENT):
        at = number * 37 % (len(text) - CHARS_PER_DOCUMENT)
        yield Document(
            text=text[at : at + CHARS_PER_DOCUMENT], id=str(number), source="copy"
        )


def peak_mb() -> float:
    """本进程常驻内存的峰值，MB。"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(size: int) -> dict[str, Any]:
    """一种篇幅：建库、读库各多用多少内存。"""
    import numpy as np

    from companion.checkpoints.loading import load_tokenizer
    from companion.corpus.packing import BlockDataset, plan_packing
    from companion.corpus.sources import read_corpus
    from companion.corpus.tokens import tokenize_documents

    text = "".join(each.text for each in read_corpus("sample:classical", "train"))
    tokenizer = load_tokenizer("starter:bert")
    with tempfile.TemporaryDirectory() as folder:
        warm = list(documents(text, 50_000))
        tokenize_documents(warm, tokenizer, cache_dir=Path(folder) / "warm")
        base, started = peak_mb(), time.process_time()
        store = tokenize_documents(
            lambda: documents(text, size),
            tokenizer,
            cache_dir=Path(folder) / "store",
            num_proc=1,  # 只有这一个进程，内存与用时才都量得到
        )
        built, seconds = peak_mb() - base, time.process_time() - started
        plan = plan_packing(store.lengths, 128, overhead_per_piece=2)
        rows = BlockDataset(store, plan)
        for row in np.random.default_rng(0).integers(len(rows), size=5_000):
            rows[int(row)]
        files = (p for p in Path(folder).glob("store/**/*") if p.is_file())
        disk = sum(p.stat().st_size for p in files)
        return {
            "characters": size,
            "tokens": store.num_tokens,
            "disk_mb": round(disk / 2**20, 1),
            "building_mb": round(built, 1),
            "reading_mb": round(peak_mb() - base - built, 1),
            "cpu_seconds": round(seconds, 1),
        }


def main() -> None:
    """几种篇幅，各在一个新进程里。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, help="只量这一种，打印 JSON")
    size = parser.parse_args().size
    if size:
        print(json.dumps(measure(size)))
        return
    rows = [
        json.loads(
            subprocess.run(
                [sys.executable, __file__, "--size", str(each)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for each in SIZES
    ]
    path = record(
        "store_memory",
        {"claim": "库大十六倍，多用的内存仍在几十兆之内", "summary": rows},
    )
    print(path, rows)


if __name__ == "__main__":
    main()
