"""训练设置：一个冻结的数据类，命令行、YAML 文件与磁盘上的记录都是它。

字段能与 `transformers.TrainingArguments` 同名的就同名。设置在建立时自检：写错的名字、越
界的数、互相矛盾的组合立刻被拒，不会等到一小时之后变成除以零。

    config = TrainingConfig(
        objective="masked_lm", model="starter:bert",
        corpus="sample:classical", output="out",
    )
    config.save(path)                      # 写成可以原样重跑的 YAML
    TrainingConfig.from_sources(path, {})  # 读回来
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from companion.errors import ConfigError
from companion.objectives.choices import (
    GapStrategy,
    Granularity,
    InfillingNoise,
    PresetName,
    SpanPlacement,
)
from companion.scalars import coerce, read_yaml

Precision = Literal["auto", "fp32", "bf16", "fp16"]
OptimizerName = Literal["adamw", "muon", "adafactor"]
Logger = Literal["tensorboard", "wandb", "swanlab", "mlflow"]
LineBreaks = Literal["auto", "keep", "join"]
Scheduler = Literal["cosine", "warmup_stable_decay", "linear", "constant"]

MAX_SEED = 2**32 - 1
"""NumPy 的全局种子至多这么大。"""


def _setting(doc: str, default: Any = dataclasses.MISSING) -> Any:
    """一个字段：缺省值，加上一句给人看的说明。"""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """一次继续预训练的全部设置。

    Raises:
        ConfigError: 某项越界，或几项互相矛盾。
    """

    objective: str = _setting("训练目标（companion objectives 列出全部）")
    model: str = _setting("检查点：starter:名字、文件夹，或 Hugging Face 编号[@版本]")
    corpus: str | tuple[str, ...] = _setting(
        "领域语料：文件、文件夹，或 companion corpus list 里的名字；几份的写成列表，"
        "各是 [名字=]语料[:权重]"
    )
    output: str = _setting("输出文件夹；里面不能有另一次运行")

    continue_from: str | None = _setting(
        "另起一次，从前一次训练的输出文件夹（或其中的 checkpoint-N）出发，带着优化器的"
        "动量，学习率重新升起（Ibrahim 等，2024）；model 与 objective 缺省同前一次",
        None,
    )
    generator: str | None = _setting(
        "replaced_token：生成器的检查点；缺省用同一文件夹里的，再没有就新建", None
    )
    valid: str | None = _setting("领域留出集；不给就从语料里按文档划出 5%", None)
    general: str | None = _setting("通用留出集，用来量遗忘", None)
    replay: str | None = _setting("回放的通用语料", None)
    mixture_temperature: float = _setting(
        "几份语料没有写权重时，份量是 大小^(1/温度)：1 照大小，越大越平均", 1.0
    )
    replay_ratio: float = _setting("回放占训练词元的比例（Ibrahim 等，2024，§6）", 0.05)
    seed: int = _setting("随机种子：打乱、噪声、随机失活都由它决定", 42)

    max_steps: int = _setting("训练多少步；−1 表示由 num_train_epochs 决定", -1)
    num_train_epochs: float = _setting(
        "训练多少轮；重复四轮以内几乎与新数据一样好（Muennighoff 等，2023）", 3.0
    )
    block_size: int | None = _setting(
        "一行至多多少词元；缺省取 512 与模型上限之小者", None
    )
    tokens_per_batch: int = _setting(
        "一个微批量至多多少词元（含填充，照破坏之前的原文计）", 4096
    )
    gradient_accumulation_steps: int = _setting("几个微批量更新一次", 1)
    packing: bool = _setting("把多个文档装进一行；不能隔离文档的模型自动不用", True)
    line_breaks: LineBreaks = _setting(
        "一篇之内的换行：auto 分词器写得出就留着，keep 一定留，join 接成一行", "auto"
    )
    deduplicate: bool = _setting("训练前删去完全相同的文档，并计入账本", True)

    learning_rate: float | None = _setting(
        "学习率峰值；缺省是预训练峰值 × 0.15（起步模型）或 5e-5，LoRA 乘十，至多 3e-3",
        None,
    )
    optimizer: OptimizerName = _setting(
        "adamw；muon 用于隐藏层的矩阵，其余仍是 AdamW（Liu 等，2025）；adafactor",
        "adamw",
    )
    embedding_learning_rate: float | None = _setting(
        "词嵌入与输出头另用的学习率；缺省与别的相同", None
    )
    layer_learning_rate_decay: float | None = _setting(
        "往下一层，学习率乘一次它，例如 0.9；缺省各层相同（Clark 等，2020，附录 B）",
        None,
    )
    lr_scheduler_type: Scheduler = _setting(
        "学习率曲线：余弦降到峰值的 10%，或 WSD 等", "cosine"
    )
    warmup_steps: float = _setting("预热步数；小于 1 时是占总步数的比例", 0.03)
    weight_decay: float = _setting("权重衰减", 0.01)
    adam_beta2: float = _setting("Adam 的 β₂", 0.98)
    max_grad_norm: float = _setting("梯度裁剪", 1.0)
    precision: Precision = _setting("计算精度；auto 由设备实测决定", "auto")
    gradient_checkpointing: bool = _setting("以重算换显存", False)
    lora_rank: int = _setting("LoRA 的秩；0 表示全参数训练（需装 peft）", 0)
    use_dora: bool = _setting("LoRA：另学各行的长度（DoRA；Liu 等，2024）", False)
    use_rslora: bool | None = _setting(
        "LoRA：缩放用 α/√r；缺省秩 64 起才用（Kalajdzievski，2023）", None
    )
    loraplus_lr_ratio: float | None = _setting(
        "LoRA+：B 的学习率是 A 的几倍，例如 16；缺省相同（Hayou 等，2024）", None
    )

    mlm_probability: float | None = _setting("掩码类目标选中的比例，缺省 0.15", None)
    granularity: Granularity | None = _setting(
        "masked_lm：掩码粒度，token、whole_word、ngram 或 span，缺省 token", None
    )
    preset: PresetName | None = _setting(
        "masked_lm：照哪篇论文的选法；它定下的比例与粒度不必再给", None
    )
    span_boundary: bool = _setting(
        "masked_lm 以片段选时：另由片段两侧的词元猜片段里的（Joshi 等，2020，§3.2）",
        False,
    )
    teacher: str | None = _setting(
        "masked_lm：向这个检查点学，写法同 model（Sanh 等，2019，§2–3）", None
    )
    student_layers: str | None = _setting(
        "masked_lm：学生取教师的这几层，从 0 数，例如 0,2,4；model 缺省同教师"
        "（Sanh 等，2019，§3）",
        None,
    )
    noise_density: float | None = _setting(
        "序列到序列目标与 blank_infilling 遮住的比例；缺省取各论文的值", None
    )
    mean_noise_span_length: float | None = _setting(
        "span_corruption：片段的平均长度，缺省 3", None
    )
    poisson_lambda: float | None = _setting(
        "text_infilling、blank_infilling：片段长度的泊松均值，缺省 3", None
    )
    span_placement: SpanPlacement | None = _setting(
        "片段怎样摆：unbiased 不偏不倚，reference 照发布的代码；缺省因目标而异", None
    )
    final_sentinel: bool = _setting("span_corruption：目标末尾多一个哨兵", False)
    noise: InfillingNoise = _setting("text_infilling：用哪一种噪声", "text_infilling")
    permute_sentences: bool = _setting("text_infilling：打乱句子的次序", True)
    rotate: bool = _setting("text_infilling：从随机的词元处起头", False)
    strategy: GapStrategy = _setting("gap_sentences：怎样挑句子", "principal")
    fine_tuning: bool = _setting("unified_lm：只遮后一段，连同末尾的 [SEP]", False)
    target_mask_probability: float | None = _setting(
        "unified_lm：fine_tuning 时遮住后一段的比例，缺省 0.7", None
    )
    sentence_probability: float | None = _setting(
        "blank_infilling：一篇文档挖整句（[sMASK]）的概率，缺省 0.3", None
    )
    document_probability: float | None = _setting(
        "blank_infilling：一篇文档挖后半篇（[gMASK]）的概率，缺省 0.3", None
    )
    fim_rate: float | None = _setting(
        "fill_in_the_middle：一篇改写的概率，缺省 0.5", None
    )
    user_dictionary: str | None = _setting(
        "masked_lm 以词选时的用户词典，一行一词；ernie 的短语也从这里来", None
    )
    names: str | None = _setting(
        "masked_lm，preset=ernie：人名、地名、官名表，一行一个；tongjian 是随包的", None
    )
    similar_words: str | None = _setting(
        "masked_lm，preset=macbert：近义词表，一行是词与它的近义词；缺省由词嵌入去找",
        None,
    )

    languages: str | None = _setting(
        "translation_lm：句对前后两句的语言，如 en,zh（lang2id 里的名字或编号）；"
        "缺省都是 zh，没有 zh 的是 0,1",
        None,
    )

    new_characters: int = _setting(
        "扩充词表：添语料里最常见的多少个缺字（companion corpus missing 列出它们）", 0
    )
    new_words: int = _setting("扩充词表：另添多少个被拆开的常用词", 0)
    embedding_steps: float = _setting(
        "扩充之后先只训练新行的步数；小于 1 时是占总步数的比例；用 LoRA 时不分先后", 0.1
    )

    eval: bool = _setting("训练前后各评估一次并写报告", True)
    eval_max_chars: int = _setting("评估时每个留出集至多用多少字", 50_000)
    eval_steps: int | None = _setting(
        "训练途中每隔多少步评一次；缺省约评十次、合计不超过训练时间的 5%，0 是不评",
        None,
    )
    load_best_model_at_end: bool = _setting(
        "留领域上最好的一步（途中评估），而不是末步；它的检查点不删", False
    )
    max_forgetting: float | None = _setting(
        "只留通用的每字比特数升高不过这一比例的几步，例如 0.02", None
    )
    early_stopping_patience: int | None = _setting(
        "途中连着这么多次没有更好就停下；缺省走完", None
    )
    average_checkpoints: int | None = _setting(
        "末了取最近这么多个检查点的平均（Sanyal 等，2023）；缺省不平均", None
    )
    save_steps: int = _setting("每隔多少步存一个检查点", 500)
    save_total_limit: int = _setting("至多留几个检查点", 2)
    logging_steps: int = _setting("每隔多少步记一次日志", 10)
    dataloader_num_workers: int = _setting("取样本的进程数；0 表示不另开进程", 0)
    report_to: Logger | None = _setting(
        "另记到 tensorboard、wandb、swanlab 或 mlflow（要先装）；缺省哪里也不上报", None
    )

    def __post_init__(self) -> None:
        docs = setting_docs()
        if isinstance(self.corpus, list | tuple):
            object.__setattr__(self, "corpus", _corpora(self.corpus))
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                continue
            kept = coerce(name, value, _KINDS[name], docs[name])
            object.__setattr__(self, name, kept)
        self._check_ranges()
        self._check_combinations()

    def _check_ranges(self) -> None:
        for name in ("block_size", "tokens_per_batch", "gradient_accumulation_steps",
                     "save_steps", "logging_steps", "eval_max_chars",
                     "save_total_limit", "early_stopping_patience"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _out_of_range(name, value, "至少为 1")
        if self.average_checkpoints is not None and self.average_checkpoints < 2:
            raise _out_of_range(
                "average_checkpoints", self.average_checkpoints, "至少为 2"
            )
        if self.loraplus_lr_ratio is not None and self.loraplus_lr_ratio < 1:
            raise _out_of_range("loraplus_lr_ratio", self.loraplus_lr_ratio, "至少为 1")
        for name in ("replay_ratio", "mlm_probability", "noise_density",
                     "target_mask_probability"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise _out_of_range(name, value, "在 0 与 1 之间")
        for name in ("sentence_probability", "document_probability", "fim_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise _out_of_range(name, value, "不小于 0、不大于 1")
        for name in ("mean_noise_span_length", "poisson_lambda"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise _out_of_range(name, value, "大于 0")
        for name in ("warmup_steps", "weight_decay", "lora_rank", "seed",
                     "dataloader_num_workers", "new_characters", "new_words",
                     "embedding_steps"):  # fmt: skip
            if getattr(self, name) < 0:
                raise _out_of_range(name, getattr(self, name), "不小于 0")
        if self.seed > MAX_SEED:
            raise _out_of_range("seed", self.seed, f"至多为 {MAX_SEED}")
        for name in ("num_train_epochs", "max_grad_norm", "mixture_temperature"):
            if getattr(self, name) <= 0:
                raise _out_of_range(name, getattr(self, name), "大于 0")
        for name in ("eval_steps", "max_forgetting"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise _out_of_range(name, value, "不小于 0")
        for name in ("learning_rate", "embedding_learning_rate",
                     "layer_learning_rate_decay"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise _out_of_range(name, value, "在 0 与 1 之间")
        if not 0 < self.adam_beta2 < 1:
            raise _out_of_range("adam_beta2", self.adam_beta2, "在 0 与 1 之间")
        if self.max_steps < 1 and self.max_steps != -1:
            raise _out_of_range(
                "max_steps", self.max_steps, "是正整数，或 −1（按轮数）"
            )

    def _check_combinations(self) -> None:
        if self.block_size is not None and self.block_size > self.tokens_per_batch:
            raise ConfigError(
                found=f"block_size {self.block_size} 大于 tokens_per_batch "
                f"{self.tokens_per_batch}",
                expected="一个微批量至少容得下一行",
                remedy=f"用 --set tokens_per_batch={self.block_size} 或更大的数",
            )
        watched = self.load_best_model_at_end or self.early_stopping_patience
        if watched and (not self.eval or self.eval_steps == 0):
            raise ConfigError(
                found="要留最好的一步或早停，而 "
                + ("eval = false" if not self.eval else "eval_steps = 0"),
                expected="途中的评估：留哪一步、停不停都由它定",
                remedy="去掉 eval=false 与 eval_steps=0，或去掉 load_best_model_at_end "
                "与 early_stopping_patience",
            )
        if self.max_forgetting is not None and not watched:
            raise ConfigError(
                found=f"max_forgetting = {self.max_forgetting}，"
                "而不留最好的一步，也不早停",
                expected="它限定留哪一步、什么时候停，单独没有作用",
                remedy="加 load_best_model_at_end=true，或去掉 max_forgetting",
            )
        own = [
            f"{name} = {value}"
            for name, value, plain in (
                ("optimizer", self.optimizer, "adamw"),
                ("embedding_learning_rate", self.embedding_learning_rate, None),
                ("layer_learning_rate_decay", self.layer_learning_rate_decay, None),
            )
            if value != plain
        ]
        extends = self.new_characters or self.new_words
        if own and extends and not self.lora_rank:
            raise ConfigError(
                found=f"{'、'.join(own)}，又要扩充词表",
                expected="扩充之后先只训练新行，用的是 AdamW 的一组",
                remedy="去掉它；或先扩充、训练，再以它的 model/ 另训一次",
            )
        if self.embedding_learning_rate is not None and self.lora_rank:
            raise ConfigError(
                found=f"lora_rank = {self.lora_rank}，又给了 embedding_learning_rate",
                expected="词嵌入要能训练，LoRA 却冻结它",
                remedy="去掉其中一个",
            )
        for name in ("use_dora", "use_rslora", "loraplus_lr_ratio"):
            value = getattr(self, name)
            if not self.lora_rank and value not in (None, False):
                raise ConfigError(
                    found=f"{name} = {value}，而 lora_rank = 0",
                    expected=f"{name} 是 LoRA 的一项，全参数训练用不着它",
                    remedy=f"加上 lora_rank=16，或去掉 {name}",
                )
        if self.continue_from and (self.new_characters or self.new_words):
            raise ConfigError(
                found=f"continue_from = {self.continue_from}，又要扩充词表",
                expected="与前一次同一个分词器",
                remedy="去掉 new_characters 与 new_words；要扩充，以前一次的 model/ 为 "
                "model，去掉 continue_from",
            )
        if self.student_layers is not None:
            self._check_student_layers(self.student_layers)
        if self.teacher is not None and (self.new_characters or self.new_words):
            raise ConfigError(
                found=f"teacher = {self.teacher}，又要扩充词表",
                expected="教师与学生同一个词表",
                remedy="去掉 new_characters 与 new_words；或先扩充、训练，不用教师",
            )

    def _check_student_layers(self, written: str) -> None:
        numbers = [each.strip() for each in written.split(",")]
        layers = [int(each) for each in numbers if each.isdecimal()]
        if len(layers) != len(numbers) or layers != sorted(set(layers)):
            raise ConfigError(
                found=f"student_layers = {written}",
                expected="教师的几层，从 0 数，依次递增，逗号隔开",
                remedy="例如十二层的教师隔层取：student_layers=0,2,4,6,8,10",
            )
        if self.teacher is None or self.model != self.teacher:
            raise ConfigError(
                found=f"student_layers = {written}，而 teacher = {self.teacher}、"
                f"model = {self.model}",
                expected="学生的层取自教师，底座就是教师",
                remedy="加上 teacher，去掉 model；学生另有底座的，去掉 student_layers",
            )
        if self.continue_from:
            raise ConfigError(
                found=f"continue_from = {self.continue_from}，又给了 student_layers",
                expected="接着前一次训练的学生，层已经取好",
                remedy="去掉 student_layers",
            )

    @property
    def student_numbers(self) -> tuple[int, ...]:
        """`student_layers` 的各层；没有给的为空。"""
        return tuple(
            int(each) for each in (self.student_layers or "").split(",") if each
        )

    @classmethod
    def from_sources(
        cls, file: Path | None, settings: Mapping[str, Any]
    ) -> "TrainingConfig":
        """YAML 文件打底，`settings` 覆盖其上。

        Args:
            file: YAML 文件；None 表示没有。
            settings: 字段名 → 值；值可以是命令行来的字符串。

        Raises:
            ConfigError: 文件读不了、不是映射、含危险标签；字段不认识、缺少或写错。
        """
        merged = {**(read_yaml(file) if file else {}), **settings}
        if isinstance(merged.get("continue_from"), str):
            earlier = run_folder(merged["continue_from"]) / "config.yaml"
            if earlier.is_file():  # 不在的，训练时报错
                same = read_yaml(earlier)
                merged = {n: same[n] for n in ("objective", "model")} | merged
        if merged.get("student_layers") is not None and "teacher" in merged:
            merged = {"model": merged["teacher"]} | merged
        for name in merged:
            if name not in _KINDS:
                raise _unknown(name)
        missing = [
            n for n in ("objective", "model", "corpus", "output") if n not in merged
        ]
        if missing:
            raise ConfigError(
                found=f"没有给出 {'、'.join(missing)}",
                expected="objective、model、corpus、output 四项都要有",
                remedy="在命令行写 --"
                + " … --".join(missing)
                + " …，或写进 --config 文件",
            )
        return cls(**merged)

    def as_dict(self) -> dict[str, Any]:
        """全部字段，可直接写成 JSON 或 YAML。"""
        return {name: _plain(value) for name, value in vars(self).items()}

    def save(self, path: Path) -> None:
        """写成完整的 YAML，`companion train --config` 可以原样重跑。"""
        lines = ["# companion train --config 本文件，即可重跑\n"]
        for spec in dataclasses.fields(self):
            value = yaml.safe_dump(
                {spec.name: _plain(getattr(self, spec.name))}, allow_unicode=True
            )
            lines.append(f"# {spec.metadata['doc']}\n{value}")
        staging = path.with_name(f".{path.name}.new")  # 续训时盘满，旧的还在
        staging.write_text("".join(lines), encoding="utf-8")
        staging.replace(path)


def run_folder(place: str) -> Path:
    """运行的输出文件夹，或其中的 checkpoint-N → 输出文件夹。"""
    path = Path(place).expanduser()
    return path.parent if path.name.startswith("checkpoint-") else path


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _corpora(given: "list[Any] | tuple[Any, ...]") -> str | tuple[str, ...]:
    """几份语料的列表；只有一份的就是那一份。"""
    if not given or not all(isinstance(each, str) and each.strip() for each in given):
        raise ConfigError(
            found=f"corpus 是 {len(given)} 项的列表，其中有空的，或不是文字的",
            expected="至少一份，各是 [名字=]语料[:权重]",
            remedy="例如 corpus: [史=shiji.txt:3, 诗=poetry.txt:1]",
        )
    return given[0] if len(given) == 1 else tuple(given)


def setting_docs() -> dict[str, str]:
    """每个字段的说明，给命令行帮助与参考手册用。"""
    return {s.name: s.metadata["doc"] for s in dataclasses.fields(TrainingConfig)}


GROUPS: dict[str, tuple[str, ...]] = {
    "模型与语料": (
        "objective", "model", "continue_from", "generator", "corpus",
        "mixture_temperature", "valid", "general", "replay", "replay_ratio",
        "deduplicate", "line_breaks", "output",
    ),
    "多长": ("max_steps", "num_train_epochs", "seed"),
    "批次": (
        "block_size", "tokens_per_batch", "gradient_accumulation_steps", "packing",
        "dataloader_num_workers",
    ),
    "优化": (
        "optimizer", "learning_rate", "embedding_learning_rate",
        "layer_learning_rate_decay", "lr_scheduler_type", "warmup_steps",
        "weight_decay",
        "adam_beta2", "max_grad_norm", "precision", "gradient_checkpointing",
    ),
    "LoRA": ("lora_rank", "use_dora", "use_rslora", "loraplus_lr_ratio"),
    "评估与存盘": (
        "eval", "eval_max_chars", "eval_steps", "load_best_model_at_end",
        "max_forgetting", "early_stopping_patience", "average_checkpoints",
        "save_steps", "save_total_limit", "logging_steps", "report_to",
    ),
    "扩充词表": ("new_characters", "new_words", "embedding_steps"),
}  # fmt: skip
"""一览里的分组；余下的是各训练目标自己的。"""


def settings_by_group() -> dict[str, list[tuple[str, str, str]]]:
    """每个设置：(名字, 缺省值, 说明)，按组；必填的缺省值写作“必填”。"""
    fields = {each.name: each for each in dataclasses.fields(TrainingConfig)}
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "训练目标自己的": tuple(n for n in fields if n not in grouped)}
    return {
        title: [(n, _default_text(fields[n].default), fields[n].metadata["doc"])
                for n in names]
        for title, names in groups.items()
    }  # fmt: skip


def _default_text(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "必填"
    if value is None:
        return "—"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, _KINDS, n=1, cutoff=0.5)
    return ConfigError(
        found=f"没有名为 {name} 的设置",
        expected=f"{len(_KINDS)} 个字段之一：{'、'.join(_KINDS)}",
        remedy=f"是不是想写 {near[0]}" if near else "照上面的名字改写",
    )


def _out_of_range(name: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(
        found=f"{name} = {value}",
        expected=f"{name} {wanted}",
        remedy=f"改写 {name}；它的意思：{setting_docs()[name]}",
    )


_KINDS = get_type_hints(TrainingConfig)
