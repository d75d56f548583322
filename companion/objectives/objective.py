"""一个训练目标的名片：叫什么、出自哪里、整理器在哪、要什么样的模型。

不导入 torch；整理器到用时才载入。
"""

import copy
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

Kind = Literal["encoder", "decoder", "encoder_decoder"]
"""模型的三类。"""

if TYPE_CHECKING:
    from companion.objectives.attention import MaskKind


@dataclass(frozen=True, kw_only=True)
class Objective:
    """一个训练目标：叫什么、出自哪里、要什么样的模型。"""

    key: str
    title: str
    family: str
    """模型家族的中文名。"""
    paper: str
    auto_class: str
    """transformers 中打开检查点的 Auto 类。"""
    causal: bool
    """位置 t 的输出对位置 t+1 的标签（真），还是对位置 t 的（假）。"""
    collator: str
    """整理器所在，`模块:类`。"""
    options: tuple[str, ...] = field(default=())
    """设置里属于本目标的字段；选法与词典先由 `training.masking` 化成整理器的参数。"""
    training_options: tuple[str, ...] = field(default=())
    """设置里属于本目标、整理器却不收的字段：另外的检查点，要由检查点来解的。"""
    model_options: tuple[str, ...] = field(default=())
    """整理器的参数里只有模型知道的（`companion.checkpoints.running.model_options`）。"""
    masks: "tuple[MaskKind, ...]" = field(default=())
    """整理器自己给出哪几种四维掩码（`attention.MaskKind`）；空的由模型自己补。"""
    usage: Literal["complete", "fill", "infill"]
    """训练好的模型怎样用：续写、填空，还是填补；样张与填空题照此作答。"""
    completion: (
        Literal["left_to_right", "prefix", "source", "blank", "unmask"] | None
    ) = None
    """训练好的模型怎样接着开头往下写：从左到右；先双向地读前缀；[CLS] 开头 [SEP] 之后
    逐个猜 [MASK]（UniLM）；写开头之后的一个空（GLM）；添一串 [MASK]，一步步揭开（扩
    散）。不会续写的为 None。"""
    infilling: Literal["blank", "middle", "unmask"] | None = None
    """没有编码器–解码器两侧的模型怎样填补：写一个空（GLM）；看着两边写中段（FIM）；揭开
    [MASK]（扩散）。不会的与编码器–解码器为 None。"""
    special_tokens: str | None = None
    """要的特殊词元分词器缺哪些，`模块:函数`；缺的打开检查点时添上。"""
    pretrained: tuple[str, ...] = field(default=())
    """哪些检查点原是用它预训练的：`model_type/架构` 的样式（`fnmatch`），长的优先。"""
    scored: str = "考的是遮住的字，模型看不见它们；前后遮的位置相同。"
    """评估考哪些字；写在报告里。"""
    discriminator: bool = False
    """训练生成器与判别器的一对，评的是判别器：标签是真假（0、1），不是词元。"""
    frozen_options: dict[str, Any] = field(default_factory=dict)
    """评估出题时交给整理器的参数；其余取缺省值，与训练的设置无关。"""
    exam_draws: int = 1
    """评估时一片抽几次噪声，取平均；多于一次的有标准误。"""
    starter: str
    """离线演示所用的起步模型。"""
    packable: bool = True
    """一行可不可以装几篇文档；为假的一行一篇（或一个句对）。"""
    pairs: 'Literal["documents", "segments", "prefix"] | None' = None
    """语料有译文时，句对怎样成行（`companion.corpus.pairing`）；None 的不看译文。"""
    least_tokens: int = 1
    """一篇至少几个词元才有题可出；不够的不进训练，记进账本。"""
    needs_sentences: str | None = None
    """一篇至少两句才有目标可学，两句用来做什么；整理器因此有 `has_sentences`。"""
    pairs_required: bool = False
    """没有译文就训练不了。"""
    exam_collator: str | None = None
    """评估出题的整理器，`模块:类`；None 表示就用训练的。"""
    loss: str = "companion.losses.parts:WordLoss"
    """损失所在，`模块:类`；有几个损失项的目标另写一个（`losses.parts.Loss`）。"""
    exam_loss: str | None = None
    """评估时的损失，`模块:类`；None 表示就用训练的。"""
    encoder_decoder: "Objective | None" = None
    """同一个目标用于编码器–解码器时的样子；与平常一样的为 None。"""
    decoder: "Objective | None" = None
    """同一个目标用于只有解码器的模型时的样子；与平常一样的为 None。"""

    def for_kind(self, kind: Kind) -> "Objective":
        """用于这一类模型时的样子。

        Args:
            kind: 模型是哪一类（`companion.checkpoints.running.kind_of`）。
        """
        return getattr(self, kind, None) or self

    @property
    def seq2seq(self) -> bool:
        """是否编码器–解码器。"""
        return self.auto_class == "AutoModelForSeq2SeqLM"

    @property
    def usages(self) -> tuple[str, ...]:
        """能用哪几个命令；UniLM 既填空又续写。"""
        more = ("complete",) if self.completion and self.usage != "complete" else ()
        return (self.usage, *more)

    @property
    def left_to_right(self) -> bool:
        """每个词元都由左边的预测。"""
        return self.completion == "left_to_right"

    @property
    def windowed(self) -> bool:
        """从左到右而没有随机；评估因此用滑动窗口，一个词元考一次。"""
        return self.left_to_right and "seed" not in self.options

    @property
    def forms(self) -> "tuple[Objective, ...]":
        """各种样子：它自己，与用于别的模型时的。"""
        others = (self.encoder_decoder, self.decoder)
        return (self, *(each for each in others if each is not None))

    @property
    def judges_order(self) -> bool:
        """一个模型两个头，另判两半的次序对不对。"""
        return "order_label" in self.model_options

    def missing_tokens(self, tokenizer: Any) -> dict[str, Any]:
        """分词器缺的特殊词元，照 `add_special_tokens` 的写法；不缺是空的。"""
        if self.special_tokens is None:
            return {}
        return _class_at(self.special_tokens)(tokenizer)

    def with_special_tokens(self, tokenizer: Any) -> Any:
        """特殊词元齐备的分词器：缺的添在另一份上，不缺就是原来的。"""
        missing = self.missing_tokens(tokenizer)
        if not missing:
            return tokenizer
        extended = copy.deepcopy(tokenizer)
        extended.add_special_tokens(missing, replace_extra_special_tokens=False)
        return extended

    def make_collator(self, tokenizer: Any, **options: Any) -> Any:
        """建一个整理器；`options` 之外的参数取论文的缺省值。"""
        return _class_at(self.collator)(tokenizer, **options)

    def make_exam_collator(self, tokenizer: Any, **options: Any) -> Any:
        """建评估出题的整理器：`frozen_options` 打底，`options` 覆盖其上。"""
        place = self.exam_collator or self.collator
        return _class_at(place)(tokenizer, **{**self.frozen_options, **options})

    def make_loss(self) -> Any:
        """训练的损失：`losses.parts.Loss`。"""
        return _class_at(self.loss)(causal=self.causal)

    def make_exam_loss(self) -> Any:
        """评估的损失。"""
        return _class_at(self.exam_loss or self.loss)(causal=self.causal)

    def row_capacity(self, collator: Any, block_size: int, num_edges: int) -> int:
        """原文一行装多少词元：破坏会改变长度的目标，要让破坏之后恰好不超过一行。"""
        measure = getattr(collator, "row_capacity", None)
        return block_size if measure is None else measure(block_size, num_edges)


def _class_at(place: str) -> Any:
    """`模块:名字` → 类或函数。"""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
