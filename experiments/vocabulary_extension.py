"""扩充词表与不扩充，一样多的步数：认得的字有没有变差，生字学到了多少，各三个种子。

    python experiments/vocabulary_extension.py --steps 60

起步模型的词表由别的史书与现代文定出，《资治通鉴》里有它没见过的字（磝、湝、碻……），一律
成了 [UNK]。这样的字在全书里只占万分之五，混在全文里什么也量不出；所以训练集与留出集都只
取含有生字的段，比例都写进结果。

两组都从 starter:bloom 起。考同样的字：

- 认得的字：起步模型的词表里有的，两组考的是同一批，每字比特数可以直接相减。
- 生字：不扩充的一组写不出它们，没有分数；扩充的一组报训练前后。
"""

import argparse
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from in_process import continue_once
from recording import record, spread

from companion.batch import IGNORE_INDEX
from companion.config import TrainingConfig
from companion.corpus import Document, missing_vocabulary, read_corpus
from companion.evaluation.scoring import score_targets
from companion.evaluation.targets import FrozenTargets, build_targets
from companion.models import extend_vocabulary, load_checkpoint
from companion.training.data import Corpora

STARTER = "starter:bloom"
BLOCK = 128
ARMS = ("plain", "extended")


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


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """两组之后的成绩，以及同一个种子的差（扩充 − 不扩充）。"""

    def bits(arm: str, part: str) -> list[float]:
        scores = [each["after"][part] for each in runs if each["arm"] == arm]
        return [each["bits_per_char"] for each in scores if each]

    plain, extended = bits("plain", "known"), bits("extended", "known")
    paired = [b - a for a, b in zip(plain, extended, strict=False)]
    found = {
        "known_plain": plain,
        "known_extended": extended,
        "known_extended_minus_plain": paired,
        "new_extended": bits("extended", "new"),
    }
    return {name: spread(values) for name, values in found.items() if values}


def main() -> None:
    """三个种子，两组轮着来；训练前的成绩只考一次。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--new-characters", type=int, default=200)
    parser.add_argument("--embedding-steps", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    folder = args.data / "tongjian"
    starter = load_checkpoint(STARTER, "causal_lm")
    size = len(starter.tokenizer)
    rare, train_facts = rare_passages(
        folder / "train.classical.txt.gz", starter.tokenizer
    )
    valid, valid_facts = rare_passages(
        folder / "valid.classical.txt", starter.tokenizer
    )
    before = {"plain": examine(starter, valid, size)}
    found = missing_vocabulary(rare, starter.tokenizer, min_count=2)
    added = found.tokens(args.new_characters)
    extended = extend_vocabulary(starter, added).checkpoint
    before["extended"] = examine(extended, valid, size)
    config = TrainingConfig(
        objective="causal_lm",
        model=STARTER,
        corpus="含有生字的段",
        output="不用",
        block_size=BLOCK,
        tokens_per_batch=args.tokens,
        learning_rate=args.learning_rate,
        max_steps=args.steps,
        save_steps=100_000,
        embedding_steps=args.embedding_steps,
    )
    corpora = Corpora(train=rare, valid=valid, general=[], replay=[], duplicates=0)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for arm in ARMS:
            count = args.new_characters if arm == "extended" else 0
            trained, facts = continue_once(
                replace(config, seed=seed, new_characters=count), corpora
            )
            after = examine(trained, valid, size)
            runs.append({"arm": arm, **facts, "after": after})
            path = record(
                "vocabulary_extension",
                {
                    "claim": "添上缺字：认得的字每字比特数变不变，生字学到多少",
                    "settings": config.as_dict(),
                    "added": len(added),
                    "train": train_facts,
                    "valid": valid_facts,
                    "before": before,
                    "bits_per_char_after": summarise(runs),
                    "runs": runs,
                },
            )
    print(path, json.dumps(summarise(runs), ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
