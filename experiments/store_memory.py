"""读语料与词元库：文本大四倍，占的内存不变，速度也不变。

    python experiments/store_memory.py

史书抄成 50 MB 与 200 MB 的文本（行行不同，写在临时文件夹里），各在一个新进程里读成磁盘
上的语料、分词、写成库，再随机读几千行；量的是常驻内存的峰值比动手之前多了多少。
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import record

SIZES = (50, 200)
"""几种篇幅，MB。"""
CHARS_PER_DOCUMENT = 500


def write_text(path: Path, text: str, megabytes: float) -> int:
    """写一份约这么大的文本，一段一篇，段段不同；返回字节数。"""
    size = number = 0
    with path.open("w", encoding="utf-8") as out:
        while size < megabytes * 2**20:
            at = number * 37 % (len(text) - CHARS_PER_DOCUMENT)
            line = f"其{number}：{text[at : at + CHARS_PER_DOCUMENT]}\n\n"
            out.write(line)
            size += len(line.encode())
            number += 1
    return size


def peak_mb() -> float:
    """本进程常驻内存的峰值，MB。"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(megabytes: int) -> dict[str, Any]:
    """一种篇幅：读、建库、读库各多用多少内存，每秒多少 MB。"""
    import numpy as np

    from companion.checkpoints.loading import load_tokenizer
    from companion.corpus.documents import open_corpus
    from companion.corpus.packing import BlockDataset, plan_packing
    from companion.corpus.sources import read_corpus
    from companion.corpus.tokens import TokenStore, tokenize_documents

    text = "".join(each.text for each in read_corpus("sample:classical", "train"))
    tokenizer = load_tokenizer("starter:bert")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = name

        def build(path: Path) -> tuple[TokenStore, float]:
            # 只有这一个进程，内存与用时才都量得到
            corpus, read = open_corpus(path).without_duplicates(), time.process_time()
            store = tokenize_documents(
                corpus, tokenizer, cache_dir=folder / path.stem, num_proc=1
            )
            return store, read

        write_text(folder / "先.txt", text, 1)
        build(folder / "先.txt")
        size = write_text(folder / "库.txt", text, megabytes)
        base, started = peak_mb(), time.process_time()
        store, read = build(folder / "库.txt")
        built, ended = peak_mb() - base, time.process_time()
        plan = plan_packing(store.lengths, 128, overhead_per_piece=2)
        rows = BlockDataset(store, plan)
        for row in np.random.default_rng(0).integers(len(rows), size=5_000):
            rows[int(row)]
        disk = sum(path.stat().st_size for path in folder.glob("库/**/*.arrow"))
        return {
            "megabytes": round(size / 2**20),
            "characters": store.meta["num_characters"],
            "tokens": store.num_tokens,
            "disk_mb": round(disk / 2**20, 1),
            "building_mb": round(built, 1),
            "reading_mb": round(peak_mb() - base - built, 1),
            "cpu_seconds": round(ended - started, 1),
            "reading_mb_per_second": round(size / 2**20 / (read - started), 2),
            "mb_per_second": round(size / 2**20 / (ended - started), 2),
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
        {"claim": "文本大四倍，多用的内存仍在几十兆之内", "summary": rows},
    )
    print(path, rows)


if __name__ == "__main__":
    main()
