"""三种切法在《资治通鉴》上：同样大的词表，每字几个词元，多少 [UNK]，能不能还原。

    python experiments/tokenize_tongjian.py            # 三个种子，写 results/
    python experiments/tokenize_tongjian.py --quick    # 随包的小史书，只打印

WordPiece、Unigram、字节 BPE 由《资治通鉴》训练集里随机抽的 12 卷（文言与白话）练成，
词表都以 8,000 为限；种子定抽哪几卷。另有两份公开的 WordPiece 词表，在 COMPANION_DATA
的 vocab/ 里。考的是留出的各卷与通用文本。再数三种装法的填充、丢弃与切断，行长 512。
"""

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from recording import record, spread
from transformers import BertTokenizer

from companion.corpus import (
    Document,
    corpus_stats,
    plan_packing,
    read_corpus,
    read_documents,
)
from companion.corpus.document import read_lines
from companion.corpus.sources import data_folder
from companion.notebook.tokenizers import measure, train_tokenizers

SIDES = ("classical", "modern")
KINDS = (*SIDES, "general")
MEASURES = ("tokens_per_char", "unk_rate", "restored_rate")
JUAN, VOCAB_SIZE, CAPACITY, PARAGRAPHS = 12, 8000, 512, 300


def packings(lengths: Sequence[int], capacity: int) -> dict[str, dict[str, int]]:
    """三种装法的账；每一种都有：词元总数 = 格子 − 填充 + 丢弃。

    Returns:
        装法 → 行 `rows`、格子 `grid`、填充 `padded`、丢弃 `dropped`，与一行装得下
        却切断了的文档 `cut`。
    """
    total = sum(lengths)
    kept = sum(min(each, capacity) for each in lengths)
    one_each = len(lengths) * capacity
    joined = -(-total // capacity)
    stops = list(accumulate(lengths))
    cut = sum(
        length <= capacity and (stop - length) // capacity != (stop - 1) // capacity
        for stop, length in zip(stops, lengths, strict=True)
    )
    fitted = len(plan_packing(lengths, capacity))
    return {
        "一篇一行，过长的截断": {
            "rows": len(lengths),
            "grid": one_each,
            "padded": one_each - kept,
            "dropped": total - kept,
            "cut": 0,
        },
        "首尾相接，等长切开": {
            "rows": joined,
            "grid": joined * capacity,
            "padded": joined * capacity - total,
            "dropped": 0,
            "cut": cut,
        },
        "最佳适配": {
            "rows": fitted,
            "grid": fitted * capacity,
            "padded": fitted * capacity - total,
            "dropped": 0,
            "cut": 0,
        },
    }


def main() -> None:
    """量完写进 results/tokenize_tongjian.json。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="随包的小史书，只打印")
    given = parser.parse_args()
    if given.quick:
        print(json.dumps(quick(), ensure_ascii=False))
        return
    held_out = _held_out("tongjian", _data() / "general" / "valid.txt")
    train = {side: list(read_corpus(f"tongjian:{side}")) for side in SIDES}
    runs: list[dict[str, Any]] = []
    for seed in given.seeds:
        chosen = random.Random(seed).sample(range(len(train["classical"])), JUAN)
        documents = [train[side][at] for side in SIDES for at in chosen]
        runs += _runs(train_tokenizers(documents, VOCAB_SIZE), seed, held_out)
    for name in ("bert-base-chinese", "uer-ancient"):
        tokenizer = _public(_data() / "vocab" / f"{name}.vocab.txt")
        runs += _runs({name: tokenizer}, None, held_out)
    content = {
        "claim": "字节 BPE 没有 [UNK]、处处还原；词表缺字时一字一元丢字",
        "vocab_size": VOCAB_SIZE,
        "juan": JUAN,
        "capacity": CAPACITY,
        "summary": _summary(runs),
        "packing": _packing(),
        "statistics": {side: corpus_stats(train[side]).as_dict() for side in SIDES},
        "runs": runs,
    }
    print(record("tokenize_tongjian", content))


def quick() -> list[dict[str, Any]]:
    """不要大语料：由随包的小史书练出三种，考它的留出集与通用文本。"""
    samples = resources.files("companion.corpus") / "samples"
    held_out = _held_out("sample", Path(str(samples / "general.valid.txt")))
    train = [each for side in SIDES for each in read_corpus(f"sample:{side}")]
    return _summary(_runs(train_tokenizers(train, 2000), 0, held_out))


def _data() -> Path:
    folder = data_folder()
    if folder is None:
        raise SystemExit("先把 COMPANION_DATA 指向含 tongjian/、vocab/ 的文件夹")
    return folder


def _held_out(name: str, general: Path) -> dict[str, list[Document]]:
    texts = {side: list(read_corpus(f"{name}:{side}", "valid")) for side in SIDES}
    return {**texts, "general": list(islice(read_documents(general), PARAGRAPHS))}


def _public(vocabulary: Path) -> Any:
    words = vocabulary.read_text("utf-8").splitlines()
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def _runs(
    tokenizers: Mapping[str, Any],
    seed: int | None,
    held_out: Mapping[str, Iterable[Document]],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, tokenizer in tokenizers.items():
        scores = {kind: measure(tokenizer, texts) for kind, texts in held_out.items()}
        rows.append(
            {"tokenizer": name, "seed": seed, "vocab": len(tokenizer), **scores}
        )
    return rows


def _summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """一个分词器一行：各份文字、各个指标的均值与散布。"""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(run["tokenizer"] for run in runs):
        own = [run for run in runs if run["tokenizer"] == name]
        scores = {
            kind: {each: spread([run[kind][each] for run in own]) for each in MEASURES}
            for kind in KINDS
        }
        vocab = spread([float(run["vocab"]) for run in own])
        rows.append({"tokenizer": name, "seeds": len(own), "vocab": vocab, **scores})
    return rows


def _packing() -> list[dict[str, Any]]:
    """文言的一行一句、通用的一段一篇，一字算一个词元，各三种装法。"""
    folder = _data()
    lines = read_lines(folder / "tongjian" / "train.classical.txt.gz")
    paragraphs = read_documents(folder / "general" / "train.txt")
    lengths = {
        "文言，一行一句": [len(line) for line in lines],
        "通用，一段一篇": [each.num_chars for each in paragraphs],
    }
    return [
        {
            "corpus": name,
            "method": method,
            **found,
            "padded_ratio": found["padded"] / found["grid"],
        }
        for name, each in lengths.items()
        for method, found in packings(each, CAPACITY).items()
    ]


if __name__ == "__main__":
    main()
