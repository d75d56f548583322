"""开训之前备齐的：一次训练（`Run`）；片段边界的头与蒸馏的教师；扩充词表。

    缺字    鱻 [UNK]、缺词 司马光 → 司 | 马 | 光      corpus.missing
    添进    新行取旧切法的平均，旧行逐位不变          checkpoints.vocabulary
    先      只有新行有梯度，权重衰减为 0，旧行与其余参数逐位不变
    后      全部参数一起训练

新行起头时只是旧行的平均；先让它们在旧模型里找到位置，旧模型就不必去迁就还没有学过的行。
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.locating import BOUNDARY_FILE, locate
from companion.checkpoints.running import (
    LANGUAGES,
    inner_model,
    language_ids,
    over_limit,
    text_config,
)
from companion.checkpoints.vocabulary import (
    Extension,
    embeddings_only,
    extend_vocabulary,
)
from companion.config import TrainingConfig
from companion.corpus.document import Document
from companion.corpus.missing import MissingVocabulary, missing_vocabulary
from companion.corpus.words import jieba_segmenter
from companion.errors import ConfigError
from companion.losses.distillation import (
    HIDDEN_WEIGHT,
    TEACHER_WEIGHT,
    TEMPERATURE,
    WORDS_WEIGHT,
    Teacher,
    load_teacher,
)
from companion.losses.parts import BoundaryLoss, Loss, TeacherLoss
from companion.losses.span_boundary import (
    SpanBoundaryHead,
    attach_boundary_head,
    make_boundary_head,
)
from companion.objectives import Objective
from companion.preflight.device import Device
from companion.preflight.visibility import Verdict
from companion.training.batching import shortened
from companion.training.continuing import BASE, Start
from companion.training.data import Corpora, TrainingData, choose_block_size, with_plan
from companion.training.inputs import Inputs
from companion.training.team import Team


@dataclass(frozen=True)
class ExtraLosses:
    """备好的各样。"""

    head: SpanBoundaryHead | None = None
    """片段边界的头；没有要求的为 None。"""
    teacher: Teacher | None = None
    """蒸馏的教师；同上。"""
    remarks: tuple[str, ...] = ()
    """第一步之前要说的话。"""

    def attach(self, model: Any) -> None:
        """把头挂到要训练的模型上。"""
        if self.head is not None:
            attach_boundary_head(model, self.head)

    def loss(self, objective: Objective) -> Loss:
        """这次训练的损失：目标自己的，加上要的几项。"""
        loss: Loss = objective.make_loss()
        if self.teacher is not None:
            loss = TeacherLoss(self.teacher)
        return loss if self.head is None else BoundaryLoss(loss)

    def move_teacher(self, device: Any) -> None:
        """教师移到训练的设备上；它不在模型之内，不存盘，每个进程各有一份。"""
        if self.teacher is not None:
            self.teacher.model.to(device)

    def farewell(self, output: Path, say: Callable[[str], None]) -> None:
        """训练完，说清头存在哪里。"""
        if self.head is not None:
            say(
                f"边界头存在 {output / 'model' / BOUNDARY_FILE}，标准的类不读它；"
                "以这个 model/ 再用 span_boundary 训练，就接着用"
            )


@dataclass(frozen=True)
class Run:
    """一次训练，第一步之前备齐的全部。"""

    config: TrainingConfig
    """补全了缺省值的设置。"""
    objective: Objective
    checkpoint: Checkpoint
    """要训练的检查点，词表已扩充好。"""
    corpora: Corpora
    inputs: Inputs
    """读进去的各份内容的指纹；留出集与训练文字的重合。"""
    data: TrainingData
    packing: Verdict
    """打不打包，为什么。"""
    device: Device
    team: Team
    extra: ExtraLosses
    new_ids: Sequence[int] = ()
    """扩充出来的词元；有它，开头几步只训练它们的行。"""
    start: Start | None = None
    """接着前一次训练的，从哪里出发。"""

    @property
    def output(self) -> Path:
        """输出文件夹。"""
        return Path(self.config.output)

    @property
    def lasting_config(self) -> TrainingConfig:
        """`config.yaml` 里的：梯度累积照运行开头的进程数写，换几个进程续训都不变。"""
        batches = self.config.gradient_accumulation_steps * self.team.size
        each = batches // self.inputs.processes
        return replace(self.config, gradient_accumulation_steps=each)

    @property
    def base(self) -> Path | None:
        """扩充了词表（或取了几层）又用 LoRA 的，改过的底座存在这里；别的为 None。"""
        config = self.config
        changed = config.new_characters or config.new_words or config.student_layers
        return self.output / BASE if changed and config.lora_rank else None

    def until(self, num_steps: int) -> "Run":
        """只走了这么多步（早停）的一次：安排与账本照实际读了的算。"""
        data = self.data
        if num_steps == data.plan.num_steps:
            return self
        rows = data.rows
        plan = shortened(data.plan, num_steps, rows.lengths, data.shares)
        ledger = with_plan(data.ledger, plan)
        return replace(self, data=replace(data, plan=plan, ledger=ledger))


def prepare_extra_losses(config: TrainingConfig, checkpoint: Checkpoint) -> ExtraLosses:
    """照设置备齐。

    Args:
        config: 训练设置。
        checkpoint: 要训练的检查点，词表已扩充好。

    Raises:
        ModelError: 检查点里存着的边界头装不上；教师打不开，或词表与学生的不同。
        ConfigError: 一行比教师读得了的长。
    """
    head, teacher = None, None
    remarks: list[str] = []
    if config.span_boundary:
        folder = locate(checkpoint.name).folder
        head = make_boundary_head(checkpoint.model, folder, config.seed)
        saved = (folder / BOUNDARY_FILE).is_file()
        origin = f"接着 {folder / BOUNDARY_FILE}" if saved else "从随机练起"
        remarks.append(f"片段边界：边界头 {_millions(head)} 百万参数，{origin}")
    if config.teacher is not None:
        teacher = _fitting_teacher(config, checkpoint)
        remarks += _introduction(teacher, checkpoint.model)
    return ExtraLosses(head, teacher, tuple(remarks))


def choose_languages(config: TrainingConfig, model: Any) -> str | None:
    """把句对两句的语言编号写进模型的设置，评估与以后的训练都照它。

    Returns:
        要说的话；模型没有语言编号（`n_langs` 不足两种）时为 None。

    Raises:
        ConfigError: 语言不认识，不是两种，或模型没有语言编号。
    """
    settings = inner_model(model).config
    count = getattr(settings, "n_langs", None) or 0
    names: dict[str, int] = getattr(settings, "lang2id", None) or {}
    known = "、".join(names) or f"0 到 {count - 1} 的编号"
    if config.languages is not None:
        given = [name.strip() for name in config.languages.split(",")]
        ids = [names.get(n, int(n) if n.isdecimal() else -1) for n in given]
        if count < 2:
            raise ConfigError(
                found=f"languages = {config.languages}，而检查点没有语言编号",
                expected="多语言的 XLM 一类（n_langs 不少于 2）",
                remedy="去掉 languages",
            )
        if len(ids) != 2 or not all(0 <= number < count for number in ids):
            raise ConfigError(
                found=f"languages = {config.languages}",
                expected=f"两种语言，逗号隔开，各是 {known} 之一",
                remedy="照检查点的 config.json 里 lang2id 填写，例如 languages=zh,zh",
            )
        setattr(settings, LANGUAGES, ids)
    if count < 2:
        return None
    chosen = language_ids(settings)
    called = {number: f"{name}（{number}）" for name, number in names.items()}
    first, second = (called.get(number, str(number)) for number in chosen)
    return f"语言编号：前一句 {first}，后一句 {second}；不对就用 --set languages=…"


def _fitting_teacher(config: TrainingConfig, checkpoint: Checkpoint) -> Teacher:
    """教得了这个学生、读得了一行的教师。"""
    teacher = load_teacher(str(config.teacher), checkpoint.model, checkpoint.tokenizer)
    block_size = choose_block_size(config, checkpoint.model)
    if (limit := over_limit(teacher.model, block_size)) is not None:
        raise ConfigError(
            found=f"一行 {block_size} 个词元，教师 {teacher.name} 至多读 {limit} 个",
            expected=f"block_size 不大于 {limit}，师生读同样的行",
            remedy=f"用 --set block_size={limit}，或换一个能读更长的教师",
        )
    return teacher


def _introduction(teacher: Teacher, student: Any) -> list[str]:
    """教师是谁，损失怎样合成，哪一项不计。"""
    cosine = f" + {HIDDEN_WEIGHT:g}·余弦" if teacher.compares_hidden else ""
    said = [
        f"蒸馏：教师 {teacher.name}（{_millions(teacher.model)} 百万参数，冻结），"
        f"损失 = {WORDS_WEIGHT:g}·掩码 + {TEACHER_WEIGHT:g}·KL"
        f"（温度 {TEMPERATURE:g}）{cosine}"
    ]
    if not teacher.compares_hidden:
        wide, narrow = (text_config(m).hidden_size for m in (teacher.model, student))
        said.append(f"注意：教师的隐藏层宽 {wide}，学生的宽 {narrow}，余弦一项不计")
    return said + [f"教师：{notice}" for notice in teacher.notices]


def _millions(module: Any) -> str:
    return f"{sum(weight.numel() for weight in module.parameters()) / 1e6:.1f}"


MIN_COUNT = 2
"""只出现一次的字词不添：一个例子训不好一行。"""


def extend_for_corpus(
    checkpoint: Checkpoint, config: TrainingConfig, documents: Iterable[Document]
) -> Extension | None:
    """照设置把语料的缺字缺词添进检查点；没有要求扩充时为 None。

    Args:
        checkpoint: 打开了的检查点，模型就地扩大。
        config: 训练设置；用 `new_characters`、`new_words`、`user_dictionary`、`seed`。
        documents: 训练语料。

    Raises:
        ConfigError: 要扩充，而语料里没有缺的，或训练的是一对模型。
        ModelError: 分词器添不进去。
    """
    if not (config.new_characters or config.new_words):
        return None
    if not hasattr(checkpoint.model, "resize_token_embeddings"):  # ELECTRA 的一对
        raise ConfigError(
            found=f"{config.objective} 训练一对模型，又要扩充词表",
            expected="只有一个模型的训练目标",
            remedy="去掉 new_characters 与 new_words；或先以别的目标扩充",
        )
    words = jieba_segmenter(config.user_dictionary) if config.new_words else None
    found = missing_vocabulary(
        documents, checkpoint.tokenizer, segmenter=words, min_count=MIN_COUNT
    )
    tokens = found.tokens(config.new_characters, config.new_words)
    if not tokens:
        raise ConfigError(
            found="要扩充词表，而语料里没有一个缺字或缺词"
            f"（出现 {MIN_COUNT} 次以上的才算）",
            expected="至少一个分词器认不得或要拆开的字词",
            remedy="去掉 new_characters 与 new_words；用 companion corpus missing 看看",
        )
    extension = extend_vocabulary(checkpoint, tokens, seed=config.seed)
    if found.num_unknown:
        extension.checkpoint.notices.append(_rates(found, tokens))
    return extension


def _rates(found: MissingVocabulary, tokens: Sequence[str]) -> str:
    """认不得的字，扩充前后各占多少。"""
    added = set(tokens)
    known = sum(p.count for p in found.characters if p.unknown and p.text in added)
    left = found.num_unknown - known
    return (
        f"认不得的字由 {found.num_unknown:,} 个（{found.unknown_rate:.3%}）"
        f"减到 {left:,} 个（{left / found.num_characters:.3%}）"
    )


def num_embedding_steps(config: TrainingConfig, num_steps: int) -> int:
    """先只训练新行的步数。

    Args:
        config: 训练设置。
        num_steps: 总步数。
    """
    wanted = config.embedding_steps
    return min(num_steps, round(wanted * num_steps if wanted < 1 else wanted))


class EmbeddingsFirst(TrainerCallback):
    """开头几步只训练新行：别的参数没有梯度，旧行没有梯度也不衰减。

    Args:
        ids: 新词元的编号。
        num_steps: 开头几步；续训时已经过了就什么也不做。
    """

    def __init__(self, ids: Sequence[int], num_steps: int) -> None:
        self.ids = ids
        self.num_steps = num_steps
        self._held = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """冻结；优化器与断点的状态都已读好。"""
        early = state.global_step < self.num_steps
        # 断点里存着当时的衰减，所以放开之后续训也要重新设
        _set_decay(kept["optimizer"], 0.0 if early else args.weight_decay)
        if early:
            self._held.enter_context(embeddings_only(kept["model"], self.ids))

    def on_step_end(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """到时候就放开。"""
        if state.global_step == self.num_steps:
            self._held.close()
            _set_decay(kept["optimizer"], args.weight_decay)

    def close(self) -> None:
        """中途停下时也恢复原样。"""
        self._held.close()


def _set_decay(optimizer: Any, decay: float) -> None:
    """Trainer 的第一组参数衰减，第二组（偏置与归一化）从不衰减。"""
    optimizer.param_groups[0]["weight_decay"] = decay
