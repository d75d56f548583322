"""点了名的模型，各从一份现成的极小检查点继续预训练几步：两处测试共用的一趟。"""

import json
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import write_vocabulary
from model_support import NamedModel, no_dropout, tiny_for
from transformers import BertTokenizer

from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.config import TrainingConfig
from companion.objectives import get_objective
from companion.training import train

ACCUMULATION = 2
RARE = "鬱龘靐齉爩麤籲灩癵驫"
"""扩进 SikuBERT 一类词表里的字。"""
STEPS = {"Funnel": 24}
"""别的 8 步就够；Funnel 的词嵌入起初很大，损失从 16 奈特降起。"""
CORPUS = ["".join(triple) for triple in permutations(TINY_TEXT[4:10], 3)][::2]
"""六十篇，各有三句：句序判断与缺句生成要不止一句。"""
PAIRS = list(permutations(TINY_TEXT[:9], 2))
"""七十二个句对，哪两句都配成一对。"""


@dataclass(frozen=True)
class Continued:
    """一趟训练，与它的起点。"""

    named: NamedModel
    start: Path
    """原来的检查点。"""
    result: Any
    """`TrainingResult`。"""

    @property
    def model(self) -> Path:
        """训练好的检查点。"""
        return self.result.output / "model"

    @property
    def log(self) -> list[dict[str, Any]]:
        """每一步一行；损失是奈特每目标。"""
        return self.result.log

    def fallen(self, name: str) -> float:
        """从第一步到最后三步的平均，降了多少。"""
        values = [row[name] for row in self.log]
        return values[0] - sum(values[-3:]) / 3


def continue_all(folder: Path) -> Any:
    """名单里的一行 → 它的那一趟；第一次问到时才训练。"""
    plain, pairs = folder / "语料.txt", folder / "句对.jsonl"
    plain.write_text("\n\n".join(CORPUS), encoding="utf-8")
    lines = (json.dumps({"source": a, "target": b}) for a, b in PAIRS)
    pairs.write_text("\n".join(lines), encoding="utf-8")

    @cache
    def run(named: NamedModel) -> Continued:
        place = folder / named.label.replace(" ", "")
        start = stock_checkpoint(named, place / "原来")
        config = TrainingConfig(
            objective=named.objective,
            model=str(start),
            corpus=str(pairs if named.objective == "translation_lm" else plain),
            output=str(place / "输出"),
            eval=False,
            max_steps=STEPS.get(named.name, 8),
            block_size=48,
            tokens_per_batch=512,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=1e-2,
            warmup_steps=0.1,
            logging_steps=1,
            save_steps=1000,
            precision="fp32",
            seed=0,
        )
        # 曲线一张要一秒，这里不看
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "缓存"))
            patch.delenv("RANK", raising=False)
            patch.setattr("companion.plots.curves.plot_curve", lambda *_a, **_k: None)
            patch.setattr("companion.plots.style.save_figure", lambda *_args: None)
            return Continued(named, start, train(config, quiet=True))

    return run


def stock_checkpoint(named: NamedModel, folder: Path) -> Path:
    """现成的检查点，没有随机失活；一对的各占一个文件夹。

    SikuBERT 一类的只有 .bin 与扩过的 vocab.txt。
    """
    if named.name != "SikuBERT":
        goal = get_objective(named.objective)
        tokenizer = goal.with_special_tokens(tiny_tokenizer(named.kind))
        with quiet_transformers():
            model = tiny_for(named.kind, goal, tokenizer, **no_dropout(named.kind))
            for name, each in getattr(model, "parts", {"": model}).items():
                each.save_pretrained(folder / name)
                tokenizer.save_pretrained(folder / name)
        return folder
    vocabulary = tiny_tokenizer("bert").get_vocab()
    more = {char: len(vocabulary) + number for number, char in enumerate(RARE)}
    tokenizer = BertTokenizer(vocab=vocabulary | more)
    model = tiny_model("bert", tokenizer, **no_dropout("bert"))
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    write_vocabulary(folder, tokenizer)
    return folder


def ids(named: NamedModel) -> str:
    """测试的名字。"""
    return f"{named.name}-{named.objective}"
