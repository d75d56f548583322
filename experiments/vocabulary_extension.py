"""扩充词表与不扩充，一样多的步数：认得的字有没有变差，生字学到了多少，各三个种子。

    python experiments/vocabulary_extension.py --steps 60
    python experiments/vocabulary_extension.py --quick

起步模型的词表由别的史书与现代文定出，《资治通鉴》里有它没见过的字（磝、湝、碻……），一律
成了 [UNK]。这样的字在全书里只占万分之五，混在全文里什么也量不出；所以训练集与留出集都只
取含有生字的段，比例都写进结果。

两组都从 starter:bloom 起。考同样的字：

- 认得的字：起步模型的词表里有的，两组考的是同一批，每字比特数可以直接相减。
- 生字：不扩充的一组写不出它们，没有分数；扩充的一组报训练前后。

`--quick` 没有大语料，就把小史书里几个常用的字换成词表之外的，当作生字；只看方向。
"""

import argparse
import functools
import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from runs import Run, parser_of, run_all

from companion.batch import IGNORE_INDEX
from companion.checkpoints import extend_vocabulary, load_checkpoint
from companion.config import TrainingConfig
from companion.corpus import Document, missing_vocabulary, read_corpus
from companion.evaluation.scoring import score_targets
from companion.evaluation.targets import FrozenTargets, build_targets
from companion.training import train
from companion.training.preparing import MIN_COUNT

STARTER = "starter:bloom"
BLOCK = 128
INVENTED = "𠀀𠀁𠀂𠀃𠀄𠀅"
"""`--quick` 的生字，哪个词表里都没有。"""


def rare_passages(path: Path, tokenizer: Any) -> tuple[list[Document], dict[str, Any]]:
    """含有生字的段，三句一段，一段一篇；连同全文与这些段的 UNK 率。"""
    documents = list(read_corpus(str(path)))
    found = missing_vocabulary(documents, tokenizer, min_count=1)
    unknown = {piece.text for piece in found.characters if piece.unknown}
    rare: list[Document] = []
    for document in documents:
        sentences = re.findall("[^。！？]+[。！？]*", document.text)
        for at in range(0, len(sentences), 3):
            text = "".join(sentences[at : at + 3])
            if unknown & set(text):
                rare.append(Document(text, f"{document.id}#{at}", path.name))
    facts = {
        "unk_rate_of_the_whole": found.unknown_rate,
        "passages": len(rare),
        "characters": sum(len(each.text) for each in rare),
        "unk_rate": missing_vocabulary(rare, tokenizer, min_count=1).unknown_rate,
    }
    return rare, facts


def write_quick(folder: Path) -> None:
    """小史书的训练集与留出集；最常用的几个字换成生字。"""
    texts = {
        part: [each.text for each in read_corpus("sample:classical", part)]
        for part in ("train", "valid")
    }
    seen = Counter(c for c in "".join(texts["train"]) if "一" <= c <= "龥")
    common = [char for char, _ in seen.most_common(len(INVENTED))]
    change = str.maketrans(dict(zip(common, INVENTED, strict=True)))
    for part, chapters in texts.items():
        text = "\n\n".join(chapters).translate(change)
        (folder / f"{part}.classical.txt").write_text(text, encoding="utf-8")


def split_targets(
    targets: FrozenTargets, new_ids: set[int]
) -> dict[str, FrozenTargets | None]:
    """同一份考题分成两份：认得的字与生字。"""
    parts: dict[str, FrozenTargets | None] = {}
    for name, wanted in (("known", False), ("new", True)):
        rows = []
        for row in targets.rows:
            new = [label in new_ids for label in row.labels.tolist()]
            labels = row.labels.clone()
            for at, each in enumerate(new):
                if each != wanted:
                    labels[at] = IGNORE_INDEX
            if (labels != IGNORE_INDEX).any():
                rows.append(row._replace(labels=labels))
        scored = [row.labels != IGNORE_INDEX for row in rows]
        parts[name] = (
            replace(
                targets,
                rows=rows,
                num_chars=sum(
                    int(row.num_chars[at].sum())
                    for row, at in zip(rows, scored, strict=True)
                ),
                num_targets=sum(int(at.sum()) for at in scored),
            )
            if rows
            else None
        )
    return parts


def examine(checkpoint: Any, valid: list[Document], size: int) -> dict[str, Any]:
    """认得的字与生字各考一次；`size` 是起步模型的词表大小。"""
    tokenizer = checkpoint.tokenizer
    targets = build_targets(tokenizer, "causal_lm", valid, block_size=BLOCK)
    parts = split_targets(targets, set(range(size, len(tokenizer))))
    scores = {
        name: None
        if part is None
        else score_targets(checkpoint.model, part).scores.as_dict()
        for name, part in parts.items()
    }
    return {"unk_rate": targets.unk_rate, **scores}


def train_arm(settings: Run, tokenizer_size: int, valid: list[Document]) -> Run:
    """训练一次，再考；输出文件夹不留。"""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        config = TrainingConfig(**settings, output=str(output), eval=False)
        metrics = train(config, quiet=True).metrics
        trained = load_checkpoint(str(output / "model"), "causal_lm")
        after = examine(trained, valid, tokenizer_size)
    return {
        "seed": settings["seed"],
        "steps": metrics["steps"],
        "tokens_trained": metrics["tokens_trained"],
        "seconds": metrics["seconds"],
        "after": after,
        "known_bits_per_char": after["known"]["bits_per_char"],
    }


def main() -> None:
    """三个种子，两组轮着来；训练前的成绩只考一次。"""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--new-characters", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.seeds, args.steps = [0], 10
        with tempfile.TemporaryDirectory() as name:
            write_quick(Path(name))
            compare(args, Path(name), "")
    else:
        compare(args, args.data / "tongjian", ".gz")


def compare(args: argparse.Namespace, folder: Path, suffix: str) -> None:
    """两组轮着训练、轮着考。"""
    starter = load_checkpoint(STARTER, "causal_lm")
    size = len(starter.tokenizer)
    rare, train_facts = rare_passages(
        folder / f"train.classical.txt{suffix}", starter.tokenizer
    )
    valid, valid_facts = rare_passages(
        folder / "valid.classical.txt", starter.tokenizer
    )
    if args.quick:
        rare, valid = rare[:60], valid[:12]
    before = {"plain": examine(starter, valid, size)}
    found = missing_vocabulary(rare, starter.tokenizer, min_count=MIN_COUNT)
    added = found.tokens(args.new_characters)
    extended = extend_vocabulary(starter, added).checkpoint
    before["extended"] = examine(extended, valid, size)
    settings = {
        "objective": "causal_lm",
        "model": STARTER,
        "block_size": BLOCK,
        "tokens_per_batch": 512,
        "learning_rate": 1e-3,
        "warmup_steps": 0.1,
        "embedding_steps": 0.2,
        "precision": "fp32",
        "max_steps": args.steps,
        "save_steps": 100_000,
    }
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "生字.txt"
        corpus.write_text("\n\n".join(each.text for each in rare), encoding="utf-8")
        settings |= {"corpus": str(corpus), "valid": str(corpus)}
        jobs = (
            (
                {"arm": arm},
                functools.partial(
                    train_arm,
                    {**settings, "seed": seed, "new_characters": count},
                    size,
                    valid,
                ),
            )
            for seed in args.seeds
            for arm, count in (("plain", 0), ("extended", args.new_characters))
        )
        run_all(
            "vocabulary_extension",
            "添上缺字：认得的字每字比特数变不变，生字学到多少",
            jobs,
            {
                "settings": {**settings, "corpus": None, "valid": None},
                "added": len(added),
                "train": train_facts,
                "valid": valid_facts,
                "before": before,
            },
            keys=("arm",),
            measures=("known_bits_per_char",),
            save=not args.quick,
        )


if __name__ == "__main__":
    main()
