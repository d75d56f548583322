"""三种切法在《资治通鉴》上：同样大的词表，每字几个词元，多少 [UNK]，能不能还原。

    python experiments/tokenize_tongjian.py            # 三个种子，写 results/
    python experiments/tokenize_tongjian.py --quick    # 一个种子，小得多，只打印

WordPiece、Unigram、字节 BPE 由《资治通鉴》训练集里随机抽的几卷（文言与白话各半）练成，
词表都是 8,000；种子定抽哪几卷。另有两份公开的 WordPiece 词表，放在 COMPANION_DATA 的
vocab/ 里。考的是留出的各卷与通用文本。再数三种装法的填充与截断。
"""

import argparse
import random
from itertools import islice
from pathlib import Path
from typing import Any

from recording import record, spread
from transformers import BertTokenizer

from companion.corpus import Document, corpus_stats, read_corpus, read_documents
from companion.corpus.catalog import data_folder
from companion.corpus.reading import read_lines
from companion.notebook.corpora import packings
from companion.notebook.tokenizers import measure, train_tokenizers

SIDES = {"classical": "文言", "modern": "白话"}
MEASURES = ("tokens_per_char", "unk_rate", "restored_rate")
CAPACITY = 512


def main() -> None:
    """量完写进 results/tokenize_tongjian.json。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="一个种子，小词表，只打印")
    given = parser.parse_args()
    seeds, vocab_size, juan = ([0], 5000, 1) if given.quick else (given.seeds, 8000, 12)
    train = {side: list(read_corpus(f"tongjian:{side}")) for side in SIDES}
    held_out = {
        name: list(read_corpus(f"tongjian:{side}", "valid"))
        for side, name in SIDES.items()
    }
    held_out["通用"] = list(islice(read_documents(_data() / "general/valid.txt"), 300))
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        documents = _some(train, juan, seed)
        trained = train_tokenizers(documents, vocab_size)
        for name, tokenizer in trained.items():
            runs.append(_run(name, seed, tokenizer, held_out))
            print(runs[-1], flush=True)
    for name in ("bert-base-chinese", "uer-ancient"):
        tokenizer = _public(_data() / "vocab" / f"{name}.vocab.txt")
        runs.append(_run(name, None, tokenizer, held_out))
        print(runs[-1], flush=True)
    content = {
        "claim": "字节 BPE 没有 [UNK]、处处还原；词表缺字时一字一元丢字",
        "vocab_size": vocab_size,
        "juan": juan,
        "summary": _summary(runs),
        "packing": _packing(),
        "statistics": {
            SIDES[side]: corpus_stats(documents).as_dict()
            for side, documents in train.items()
        },
        "runs": runs,
    }
    print(content["summary"], content["packing"])
    if not given.quick:
        record("tokenize_tongjian", content)


def _data() -> Path:
    folder = data_folder()
    if folder is None:
        raise SystemExit("先把 COMPANION_DATA 指向含 tongjian/、vocab/ 的文件夹")
    return folder


def _some(train: dict[str, list[Document]], count: int, seed: int) -> list[Document]:
    """同样的几卷，文言与白话都要。"""
    chosen = random.Random(seed).sample(range(len(train["classical"])), count)
    return [documents[at] for documents in train.values() for at in chosen]


def _public(vocabulary: Path) -> Any:
    words = vocabulary.read_text("utf-8").splitlines()
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def _run(
    name: str, seed: int | None, tokenizer: Any, held_out: dict[str, list[Document]]
) -> dict[str, Any]:
    scores = {kind: measure(tokenizer, texts) for kind, texts in held_out.items()}
    return {"tokenizer": name, "seed": seed, "vocab": len(tokenizer), **scores}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """分词器 → 文字 → 指标 → 均值与散布。"""
    names = dict.fromkeys(run["tokenizer"] for run in runs)
    return {
        name: {
            kind: {
                measure: spread(
                    [run[kind][measure] for run in runs if run["tokenizer"] == name]
                )
                for measure in MEASURES
            }
            for kind in (*SIDES.values(), "通用")
        }
        for name in names
    }


def _packing() -> dict[str, Any]:
    """文言一侧一字一个词元：一行一句、通用的一段一篇，各三种装法。"""
    folder = _data()
    lines = [
        len(line) for line in read_lines(folder / "tongjian/train.classical.txt.gz")
    ]
    paragraphs = [
        each.num_chars for each in read_documents(folder / "general/train.txt")
    ]
    return {
        "capacity": CAPACITY,
        "文言，一行一句": packings(lines, CAPACITY),
        "通用，一段一篇": packings(paragraphs, CAPACITY),
    }


if __name__ == "__main__":
    main()
