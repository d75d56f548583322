"""同样的算力，ELECTRA 与掩码语言建模，哪个练出的编码器更好用：断句上见。

    python experiments/electra_or_mlm.py
    python experiments/electra_or_mlm.py --quick

两个起步模型各在《资治通鉴》文言上继续预训练同样多的处理器秒，再各接一个线性头微调同样多的
步，学断句：去掉标点，逐字判断后面该不该有标点。比留出集上的 F1。起步模型不继续预训练、
直接微调的一组作底，两家起点不同，要看的是各自涨了多少。

每步多久先各量十步；ELECTRA 一步要过两个模型，所以步数少。判别器是它拿来用的那一半。
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from runs import parser_of, run_all, settings_of

METHODS = {
    "masked_lm": "starter:bert",
    "replaced_token": "starter:electra",
}
MARKS = frozenset("，。；：！？、")
_WIDTH = 96
"""断句一行多少字。"""


def unpunctuated(path: str, number: int) -> list[tuple[str, list[int]]]:
    """去掉标点的若干行，与每个字后面有没有标点。"""
    from companion.corpus.sources import read_corpus

    found: list[tuple[str, list[int]]] = []
    for document in read_corpus(path):
        chars: list[str] = []
        labels: list[int] = []
        for char in document.text:
            if char in MARKS:
                if labels:
                    labels[-1] = 1
            elif char.isalpha():
                chars.append(char)
                labels.append(0)
        for at in range(0, len(chars) - _WIDTH + 1, _WIDTH):
            found.append(("".join(chars[at : at + _WIDTH]), labels[at : at + _WIDTH]))
        if len(found) >= number:
            return found[:number]
    return found


def encode(tokenizer: Any, rows: list[tuple[str, list[int]]]) -> dict[str, Any]:
    """一字一词元的批量，(N, T + 2)；两端的特殊词元不判。"""
    ids = [
        tokenizer.build_inputs_with_special_tokens(
            tokenizer.convert_tokens_to_ids(list(text))
        )
        for text, _ in rows
    ]
    labels = [[-100, *each, -100] for _, each in rows]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def segmentation_f1(
    folder: str, tokenizer: Any, texts: dict[str, Any], steps: int, seed: int
) -> float:
    """接上线性头，微调 `steps` 步，在留出集上数 F1。"""
    from transformers import AutoModelForTokenClassification, set_seed

    set_seed(seed)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
    model.train()
    train, valid = (encode(tokenizer, texts[name]) for name in ("train", "valid"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(train["input_ids"]), (16,), generator=generator)
        loss = model(**{name: value[rows] for name, value in train.items()}).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        logits = torch.cat(
            [model(input_ids=ids).logits for ids in valid["input_ids"].split(64)]
        )
    judged = valid["labels"] >= 0
    said, truth = logits.argmax(-1)[judged] == 1, valid["labels"][judged] == 1
    right = int((said & truth).sum())
    return 2 * right / max(1, int(said.sum()) + int(truth.sum()))


def continued(settings: dict[str, Any], steps: int, output: Path) -> tuple[str, float]:
    """继续预训练；返回编码器所在的文件夹与处理器秒。"""
    from companion.config import TrainingConfig
    from companion.training import train

    config = TrainingConfig(**settings, max_steps=steps, output=str(output), eval=False)
    began = time.process_time()
    train(config, quiet=True)
    seconds = time.process_time() - began
    model = output / "model"
    judge = model / "discriminator"
    return str(judge if judge.exists() else model), seconds


def main() -> None:
    """两种做法、各个种子，连同没有继续预训练的，写进 results/。"""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="处理器秒")
    parser.add_argument("--fine-tuning-steps", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds, steps = (3.0, 8) if args.quick else (args.seconds, args.fine_tuning_steps)
    common = settings_of("bert", args)
    sizes = {"train": 40, "valid": 20} if args.quick else {"train": 1500, "valid": 300}
    texts = {
        name: unpunctuated(common["corpus" if name == "train" else "valid"], size)
        for name, size in sizes.items()
    }
    from companion.models.loading import load_checkpoint

    pace: dict[str, float] = {}
    starts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as home:
        tokenizer = load_checkpoint("starter:bert", "masked_lm").tokenizer
        for method, model in METHODS.items():
            settings = {**common, "objective": method, "model": model, "seed": 0}
            few = 2 if args.quick else 10
            spent = [
                continued(settings, number, Path(home) / f"{method}-{number}")
                for number in (1, 1 + few)
            ]
            pace[method] = (spent[1][1] - spent[0][1]) / few
            starts[method] = untrained(method, model, Path(home) / f"{method}-start")

        def one(method: str, seed: int, *, train_first: bool) -> dict[str, Any]:
            settings = {
                **common,
                "objective": method,
                "model": METHODS[method],
                "seed": seed,
            }
            number = max(1, round(seconds / pace[method])) if train_first else 0
            folder, spent = starts[method], 0.0
            with tempfile.TemporaryDirectory() as run:
                if train_first:
                    folder, spent = continued(settings, number, Path(run) / "run")
                score = segmentation_f1(folder, tokenizer, texts, steps, seed)
            return {"steps": number, "cpu_seconds": round(spent, 1), "f1": score}

        seeds = args.seeds[:1] if args.quick else args.seeds
        jobs = [
            (
                {"method": method, "continued": first, "seed": seed},
                lambda method=method, seed=seed, first=first: one(
                    method, seed, train_first=first
                ),
            )
            for seed in seeds
            for method in METHODS
            for first in (False, True)
        ]
        run_all(
            "electra_or_mlm",
            "同样的处理器秒，ELECTRA 与掩码语言建模继续预训练之后，断句的 F1 各涨多少",
            jobs,
            {
                "budget_cpu_seconds": seconds,
                "cpu_seconds_per_step": {k: round(v, 3) for k, v in pace.items()},
                "fine_tuning_steps": steps,
                "rows": {name: len(rows) for name, rows in texts.items()},
            },
            keys=("method", "continued"),
            measures=("f1", "cpu_seconds"),
            save=not args.quick,
        )


def untrained(method: str, model: str, folder: Path) -> str:
    """起步模型的编码器原样存一份，微调时由标准的 Auto 类打开。"""
    from companion.models.loading import load_checkpoint

    checkpoint = load_checkpoint(model, method)
    inner = getattr(checkpoint.model, "discriminator", checkpoint.model)
    inner.save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
