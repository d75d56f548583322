"""给训练好的起步模型打分、写模型卡、登记散列，放进包里。

    python experiments/score_starters.py bert --work build/small

在 `pretrain_small.py`（bert、qwen3）或 `pretrain_starters.py` 之后运行。分数在五个留出
集上：`base/valid` 的文言与白话（史籍，训练时见过同书的别的篇）、`general/valid`（现
代汉语）、`tongjian/valid` 的文言与白话（从没读过的书）。最后两个旁边有尺子：数
`base/train` 同一侧的三元（`companion.evaluation.ruler`）。
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pretrain_small
import pretrain_starters

from companion.checkpoints.electra_pair import ElectraPair
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.locating import StarterCard, seal
from companion.corpus.document import Document
from companion.corpus.reading import read_documents
from companion.evaluation.scoring import evaluate

RECIPES: dict[str, Any] = pretrain_starters.RECIPES | pretrain_small.RECIPES
STARTERS = Path(__file__).parents[1] / "companion/checkpoints/starters"

DATA_NOTE = (
    "base：史记、汉书、后汉书、三国志、晋书、旧唐书、宋史、明史、左传、战国策、国语的"
    "文言与白话（NiuTrans/Classical-Modern 提交 4e746ea，不含《资治通鉴》）；"
    "general：CMRC 2018、DRCD、XQuAD、NTREX-128、UD_Chinese-GSDSimp 的现代汉语段落"
)
LICENCE_NOTE = (
    "权重随本包以 Apache-2.0 发布。文言原文属公有领域；base 的现代译文权利未澄清，"
    "上游的 MIT 许可只覆盖整理与对齐；general 为 CC BY-SA。适合教学与研究；"
    "商用前自行判断。"
)
README = """# starter:{kind}

{architecture}。为离线教学而真正预训练过的小模型，**没有读过《资治通鉴》**，所以在它上面继续预训练，量得出学到了什么。它太小，别用来做正事。

| 项 | 值 |
|---|---|
| 训练目标 | {objective} |
| 数据 | {data} |
| 见过的词元 | {tokens:,} |
| 步数、种子 | {steps:,}、{seed} |
| 学习率 | {rate} |
| 词表 | 8,000，单字，各起步模型共用 |
{scores}
| 权利 | {licence} |

怎样训练：

```console
$ python experiments/{script}.py {kind}
$ python experiments/score_starters.py {kind}
```

{how}
"""
HOW = {
    "bert": "小型 post-LN BERT 会长久停在只会猜标点的平台上；这里前两层的注意力头在"
    "初始化时就对准左右邻（见 `starters/aim_bert.py`）。矩阵用 Muon，行由短到长，掩码由"
    "四成降到一成半，后一半学习率线性降到零。架构仍是原样的 `BertForMaskedLM`。",
    "qwen3": "今天的解码器：旋转位置、分组的键值、查询与键各自归一化、门控的前馈层；架"
    "构是原样的 `Qwen3ForCausalLM`，可以打包。矩阵用 Muon，行由短到长，后一半学习率线性"
    "降到零。",
    "bloom": "ALiBi 天生偏爱近邻，没有平台期的问题。",
    "t5": "T5 没有偏置，又共用输入与输出的词嵌入，从随机的参数开始，小模型会塌成只猜字"
    "频，解码器也从不看编码器。这里各处的起点都安排过，词嵌入抄自换新之前的 "
    "starter:bert；头四分之一只练编码器，让它在哨兵处猜字（见 `starters/aim_t5.py`）。"
    "架构仍是原样的 `T5ForConditionalGeneration`。",
    "bart": "编码器的三层与词嵌入、位置嵌入抄自换新之前的 starter:bert（同一份词"
    "表），解码器从零开始；此后全部参数照文本填补的目标训练。",
    "electra": "判别器三层，生成器一层，各抄自换新之前的 starter:bert 的前几层；嵌入压"
    "到 96 维，两者共用（见 `starters/aim_electra.py`）；两个头从零开始，此后全部参数照"
    "替换词元检测训练。打的分是判别器的：假的从同一行别处抽来，每字比特数是判断每个字真假的"
    "代价，命中率要与总答“原文”的比。架构仍是原样的 `ElectraForPreTraining` 与 "
    "`ElectraForMaskedLM`，各在一个文件夹里。",
    "glm": "两行位置都取随机频率的正弦，前两层的头对准空的左右邻与片段里刚写的字；层归"
    "一化在前，对准的两层输出要小，位置才不被淹没；字频写进词嵌入专给的一维；词嵌入的"
    "其余各维抄自换新之前的 starter:bert（见 `starters/aim_glm.py`）。架构是本包的 "
    "`TwoRowGlmForCausalLM`，`import companion` 之后 transformers 也打得开。",
}


def score(kind: str, data: Path, work: Path, max_chars: int) -> None:
    """打分、写卡、登记。"""
    recipe = RECIPES[kind]
    small = kind in pretrain_small.RECIPES
    source = work / kind
    checkpoint = load_checkpoint(str(source), recipe.objective)
    general = [
        Document(text=line, id=f"general#{n}", source="general/valid.txt")
        for n, line in enumerate(
            (data / "general/valid.txt").read_text("utf-8").splitlines()
        )
    ]
    sets = {
        "base/valid 文言": list(read_documents(data / "base/valid.classical.txt")),
        "base/valid 白话": list(read_documents(data / "base/valid.modern.txt")),
        "general/valid": general,
        "tongjian/valid 文言": list(
            read_documents(data / "tongjian/valid.classical.txt")
        ),
        "tongjian/valid 白话": list(read_documents(data / "tongjian/valid.modern.txt")),
    }
    counted = {
        "tongjian/valid 文言": data / "base/train.classical.txt.gz",
        "tongjian/valid 白话": data / "base/train.modern.txt.gz",
    }
    results = {
        name: evaluate(
            checkpoint,
            recipe.objective,
            documents,
            max_chars=max_chars,
            ruler=list(read_documents(counted[name]))
            if name in counted and recipe.objective != "replaced_token"
            else None,
        ).scores
        for name, documents in sets.items()
    }
    pair = isinstance(checkpoint.model, ElectraPair)
    target = STARTERS / kind
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("training.json"))
    facts = json.loads((source / "training.json").read_text())
    models = [*checkpoint.model.parts.values()] if pair else [checkpoint.model]
    (target / "README.md").write_text(
        README.format(
            kind=kind,
            architecture="；".join(describe(model) for model in models),
            objective=recipe.objective,
            data=DATA_NOTE,
            tokens=facts["tokens_seen"],
            steps=facts["steps"],
            seed=facts["seed"],
            rate=schedule(recipe, small),
            script="pretrain_small" if small else "pretrain_starters",
            scores="\n".join(
                f"| {name} | 每字 {s.bits_per_char:.3f} 比特，命中 {s.accuracy:.1%}"
                + (f"（总答“原文”是 {1 - s.replaced_rate:.1%}）" if pair else "")
                + (f"；尺子（三元）{s.ruler['trigram']:.3f} |" if s.ruler else " |")
                for name, s in results.items()
            ),
            licence=LICENCE_NOTE,
            how=HOW[kind],
        ),
        encoding="utf-8",
    )
    main = "base/valid 白话" if recipe.objective == "causal_lm" else "base/valid 文言"
    seal(
        target,
        StarterCard(
            name=kind,
            data=DATA_NOTE,
            **facts,
            bits_per_char=round(results[main].bits_per_char, 4),
            licence_note=LICENCE_NOTE,
            sha256={},
            details={
                "objective": recipe.objective,
                "peak_learning_rate": recipe.other_rate
                if small
                else recipe.peak_learning_rate,
                "shares": recipe.shares,
                "held_out": {
                    name: {
                        "bits_per_char": round(s.bits_per_char, 4),
                        "accuracy": round(s.accuracy, 4),
                        "unk_rate": round(s.unk_rate, 6),
                        "num_chars": s.num_chars,
                        **(
                            {"replaced_rate": round(s.replaced_rate, 4)} if pair else {}
                        ),
                        **(
                            {"trigram": round(s.ruler["trigram"], 4)} if s.ruler else {}
                        ),
                    }
                    for name, s in results.items()
                },
                "how": HOW[kind],
            },
        ),
    )
    print((target / "README.md").read_text("utf-8"))


def schedule(recipe: Any, small: bool) -> str:
    """学习率怎样走，一句话。"""
    if small:
        return (
            f"Muon（矩阵）{recipe.matrix_rate:g}、AdamW（其余）{recipe.other_rate:g}，"
            f"末 {recipe.decay:.0%} 线性降到 0"
        )
    return (
        f"WSD，峰值 {recipe.peak_learning_rate:g}，末 {recipe.decay_share:.0%} 衰减到 0"
    )


def describe(model: Any) -> str:
    """架构、层数、宽与参数。"""
    config = model.config
    layers = f"{config.num_hidden_layers} 层"
    if config.is_encoder_decoder:
        decoder = getattr(config, "num_decoder_layers", None) or config.decoder_layers
        layers = f"编码器 {config.num_hidden_layers} 层、解码器 {decoder} 层"
    millions = model.num_parameters() / 1e6
    return (
        f"`{type(model).__name__}`，{layers}，宽 {config.hidden_size}，"
        f"{millions:.2f} M 参数"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("COMPANION_DATA"), help="语料文件夹"
    )
    parser.add_argument("--work", type=Path, default=Path("build/starters"))
    parser.add_argument("--max-chars", type=int, default=60_000, help="每集至多几字")
    args = parser.parse_args()
    score(args.kind, args.data, args.work, args.max_chars)
