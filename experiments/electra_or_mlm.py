"""同样的算力，接着练掩码，还是改练替换词元检测：哪一样的编码器更会断句。

    python experiments/electra_or_mlm.py --steps 240
    python experiments/electra_or_mlm.py --quick

两个起点，各练两个目标。`starter:bert` 的编码器一直练掩码，改练真假要配新的判别头，生成
器取它的第一层；`starter:electra` 的判别器一直练真假，改练掩码就借生成器的输出头。两个目
标各有一次主场，同一个起点的编码器逐位相同。

算力按浮点运算数算齐，不按处理器秒：一步多少次由 torch 数出来，哪台机器上都一样；处理器
秒随邻居的忙闲能差上一倍。生成器与判别器各走一遍，同样的运算数里步数就少。

练完都考断句（`punctuation_probe`），自己的目标也考，作个旁证。
"""

import functools
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from punctuation_probe import Piece, pieces_of, probe
from runs import Job, Run, parser_of, run_all, settings_of

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.reading import quiet_transformers

Work = tuple[str, str]
"""（起点，目标）。"""
Exam = tuple[list[Piece], list[Piece]]
"""断句题：学的一半，考的一半。"""
MEASURES = (
    *("steps", "tokens_trained", "cpu_seconds"),
    *("f1_last", "f1_all", "bits_last", "bits_all", "own", "own_floor"),
)


def main() -> None:
    """两个起点、两个目标、各个种子；没有训练的两个起点也考一遍，作底。"""
    parser = parser_of(__doc__ or "")
    parser.add_argument(
        "--steps", type=int, default=240, help="starter:bert 练掩码的步数，算力由它定"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = settings_of("bert", args) | {"learning_rate": args.learning_rate}
    if not args.quick:
        settings |= {"tokens_per_batch": 1024}
    steps, seeds = (4, [0]) if args.quick else (args.steps, args.seeds)
    sizes = (4_000, 2_000) if args.quick else (40_000, 20_000)
    exam = exam_of(settings["valid"], *sizes)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        models = starting_points(Path(folder))
        costs = {work: step_flops(models[work], work[1], settings) for work in models}
        budget = steps * costs["starter:bert", "masked_lm"]
        run_all(
            "electra_or_mlm",
            "同样的浮点运算数，接着练掩码与改练替换词元检测，哪一样的编码器更会断句",
            [
                *untrained_jobs(models, exam),
                *training_jobs(models, costs, budget, exam, settings, seeds),
            ],
            facts_of(models, costs, budget, exam, settings),
            keys=("start", "objective"),
            measures=MEASURES,
            save=not args.quick,
        )


def untrained_jobs(models: dict[Work, str], exam: Exam) -> list[Job]:
    """两个起点，一步也不练。"""
    return [
        (
            {"start": start, "objective": "none", "seed": 0},
            functools.partial(untrained, models[start, "masked_lm"], exam),
        )
        for start in dict.fromkeys(start for start, _ in models)
    ]


def training_jobs(
    models: dict[Work, str],
    costs: dict[Work, int],
    budget: int,
    exam: Exam,
    settings: Run,
    seeds: list[int],
) -> list[Job]:
    """每种做法、每个种子一次；步数是算力除以一步的花费。"""
    return [
        (
            {"start": start, "objective": objective, "seed": seed},
            functools.partial(
                train_and_examine,
                model,
                exam,
                {
                    **settings,
                    "objective": objective,
                    "seed": seed,
                    "max_steps": round(budget / costs[start, objective]),
                },
            ),
        )
        for seed in seeds
        for (start, objective), model in models.items()
    ]


def facts_of(
    models: dict[Work, str],
    costs: dict[Work, int],
    budget: int,
    exam: Exam,
    settings: Run,
) -> Run:
    """各次相同的：设置、算力、考题的大小、训练之前自己的目标答得怎样。"""
    hidden = dict.fromkeys(("corpus", "valid", "general", "model", "objective"))
    learn, ask = exam
    answers = [each for piece in ask for each in piece.breaks]
    works = [
        {
            "start": start,
            "objective": objective,
            "gigaflops_per_step": round(costs[start, objective] / 1e9, 2),
            "own_before": own_exam(
                load_checkpoint(model, objective), {**settings, "objective": objective}
            )["own"],
        }
        for (start, objective), model in models.items()
    ]
    return {
        "settings": {**settings, **hidden},
        "teraflops": round(budget / 1e12, 2),
        "works": works,
        "chars_to_learn": sum(len(piece.text) for piece in learn),
        "chars_to_ask": len(answers),
        "break_rate": round(sum(answers) / len(answers), 4),
    }


def exam_of(valid: str, learn: int, ask: int) -> Exam:
    """留出集前三分之二的文档里学，其余的里考。"""
    from companion.corpus.sources import read_corpus

    texts = [document.text for document in read_corpus(valid)]
    middle = max(1, len(texts) * 2 // 3)
    return pieces_of(texts[:middle], learn), pieces_of(texts[middle:], ask)


@torch.no_grad()
def starting_points(folder: Path) -> dict[Work, str]:
    """两个起点各写成掩码模型与一对；编码器的权重同一份。"""
    from transformers import BertForMaskedLM, ElectraForMaskedLM

    from companion.checkpoints.loading import load_checkpoint
    from companion.checkpoints.locating import starter_path
    from companion.checkpoints.saving import save_checkpoint

    torch.manual_seed(0)  # 新的判别头
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float()
    pair = load_checkpoint("starter:electra", "replaced_token")
    mine = pair_of_bert(bert)
    save_checkpoint(mine, pair.tokenizer, folder / "bert-pair")
    words = ElectraForMaskedLM(pair.model.discriminator.config)
    words.load_state_dict(pair.model.generator.state_dict(), strict=False)  # 输出头
    words.electra.load_state_dict(pair.model.discriminator.electra.state_dict())
    save_checkpoint(words, pair.tokenizer, folder / "electra-words")
    return {
        ("starter:bert", "masked_lm"): "starter:bert",
        ("starter:bert", "replaced_token"): str(folder / "bert-pair"),
        ("starter:electra", "masked_lm"): str(folder / "electra-words"),
        ("starter:electra", "replaced_token"): "starter:electra",
    }


def pair_of_bert(bert: Any) -> Any:
    """BERT 改写成一对：判别器是整个编码器，生成器是第一层与原来的输出头。

    ELECTRA 的嵌入与隐藏层一样宽时没有投影，各层与 BERT 的同名同形，权重照抄；判别头从零
    开始，起初处处说“一半一半”。
    """
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    from companion.checkpoints.electra_pair import ElectraPair

    shared = bert.config.to_dict()
    for name in ("model_type", "architectures"):
        shared.pop(name)
    width = bert.config.hidden_size
    body = bert.bert.state_dict()

    def config(layers: int) -> Any:
        return ElectraConfig(
            **{**shared, "num_hidden_layers": layers, "embedding_size": width}
        )

    judge = ElectraForPreTraining(config(bert.config.num_hidden_layers))
    judge.electra.load_state_dict(body)
    judge.discriminator_predictions.dense_prediction.weight.zero_()
    maker = ElectraForMaskedLM(config(1))
    maker.electra.load_state_dict(body, strict=False)
    head, ours = bert.cls.predictions, maker.generator_predictions
    ours.dense.load_state_dict(head.transform.dense.state_dict())
    ours.LayerNorm.load_state_dict(head.transform.LayerNorm.state_dict())
    maker.generator_lm_head.bias.copy_(head.decoder.bias)
    return ElectraPair(maker, judge).eval()


def step_flops(model: str, objective: str, settings: Run) -> int:
    """一步（前向与反向）多少次浮点运算，在留出集的一批上数。"""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from companion.corpus.sources import read_corpus
    from companion.objectives import get_objective

    checkpoint = load_checkpoint(model, objective)
    length, count = settings["block_size"], settings["tokens_per_batch"]
    texts = "".join(document.text for document in read_corpus(settings["valid"]))
    rows = [
        {
            "input_ids": checkpoint.tokenizer(texts[at : at + length - 2])["input_ids"],
            "example_id": at,
        }
        for at in range(0, count, length)
    ]
    collator = get_objective(objective).make_collator(checkpoint.tokenizer)
    batch = collator(rows)
    # CPU 上的融合注意力没有运算数的公式，换成拆开的
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        parts = get_objective(objective).make_loss()(checkpoint.model, batch)
        torch.stack([each.losses.total_nats for each in parts]).sum().backward()
    return counter.get_total_flops()


def encoder_of(checkpoint: Any) -> Any:
    """拿来用的编码器：一对里是判别器的。"""
    return getattr(checkpoint.model, "discriminator", checkpoint.model).base_model


def untrained(model: str, exam: Exam) -> Run:
    """没有接着练的起点；不考自己的目标。"""
    checkpoint = load_checkpoint(model, "masked_lm")
    nothing = {"steps": 0, "tokens_trained": 0, "cpu_seconds": 0.0}
    return {**nothing, **probe(encoder_of(checkpoint), checkpoint.tokenizer, *exam)}


def train_and_examine(model: str, exam: Exam, settings: Run) -> Run:
    """练一遍；考断句，也考自己的目标。"""
    from companion.config import TrainingConfig
    from companion.training import train

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        started = time.process_time()
        config = TrainingConfig(
            **{**settings, "model": model}, output=str(output), eval=False
        )
        metrics = train(config, quiet=True).metrics
        cpu_seconds = time.process_time() - started
        checkpoint = load_checkpoint(str(output / "model"), settings["objective"])
    return {
        "steps": metrics["steps"],
        "tokens_trained": metrics["tokens_trained"],
        "cpu_seconds": round(cpu_seconds, 1),
        **probe(encoder_of(checkpoint), checkpoint.tokenizer, *exam),
        **own_exam(checkpoint, settings),
    }


def own_exam(checkpoint: Any, settings: Run) -> Run:
    """自己的目标在领域留出集上每字多少比特；真假题另记只报比例的花费。"""
    from companion.corpus.sources import read_corpus
    from companion.evaluation.scoring import evaluate

    scores = evaluate(
        checkpoint,
        settings["objective"],
        list(read_corpus(settings["valid"])),
        block_size=settings["block_size"],
        max_chars=settings["eval_max_chars"],
    ).scores
    found = {"own": round(scores.bits_per_char, 4)}
    if (rate := scores.replaced_rate) is not None:
        floor = -sum(share * math.log2(share) for share in (rate, 1 - rate))
        found["own_floor"] = round(floor, 4)
    return found


if __name__ == "__main__":
    main()
