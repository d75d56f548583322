"""训练目标：一篇论文一个文件，这里是唯一的名册。

名册不导入 torch，`companion objectives` 因此立刻就有回答。
"""

import difflib
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from companion.errors import ObjectiveError

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
    """设置里属于本目标的字段；选法与词典先由 `models.masking` 化成整理器的参数。"""
    model_options: tuple[str, ...] = field(default=())
    """整理器的参数里只有模型知道的（`companion.models.running.model_options`）。"""
    masks: "tuple[MaskKind, ...]" = field(default=())
    """整理器自己给出哪几种四维掩码（`attention.MaskKind`）；空的由模型自己补。"""
    usage: Literal["complete", "fill", "infill"]
    """训练好的模型怎样用：续写、填空，还是填补；样张与填空题照此作答。"""
    frozen_options: dict[str, Any] = field(default_factory=dict)
    """评估出题时交给整理器的参数；其余取缺省值，与训练的设置无关。"""
    starter: str
    """离线演示所用的起步模型。"""
    packable: bool = True
    """一行可不可以装几篇文档；为假的一行一篇（或一个句对）。"""
    pairs: 'Literal["documents", "segments", "prefix"] | None' = None
    """语料有译文时，句对怎样成行（`companion.corpus.pairing`）；None 的不看译文。"""
    pairs_required: bool = False
    """没有译文就训练不了。"""
    exam_collator: str | None = None
    """评估出题的整理器，`模块:类`；None 表示就用训练的。"""
    encoder_decoder: "Objective | None" = None
    """同一个目标用于编码器–解码器时的样子；没有第二种样子的为 None。"""

    def for_config(self, config: Any) -> "Objective":
        """用于这种模型时的样子。

        Args:
            config: 模型的 transformers 设置。
        """
        if self.encoder_decoder is not None and config.is_encoder_decoder:
            return self.encoder_decoder
        return self

    @property
    def seq2seq(self) -> bool:
        """是否编码器–解码器。"""
        return self.auto_class == "AutoModelForSeq2SeqLM"

    def make_collator(self, tokenizer: Any, **options: Any) -> Any:
        """建一个整理器；`options` 之外的参数取论文的缺省值。"""
        return _class_at(self.collator)(tokenizer, **options)

    def make_exam_collator(self, tokenizer: Any, **options: Any) -> Any:
        """建评估出题的整理器：`frozen_options` 打底，`options` 覆盖其上。"""
        place = self.exam_collator or self.collator
        return _class_at(place)(tokenizer, **{**self.frozen_options, **options})

    def row_capacity(self, collator: Any, block_size: int, num_edges: int) -> int:
        """原文一行装多少词元：破坏会改变长度的目标，要让破坏之后恰好不超过一行。"""
        measure = getattr(collator, "row_capacity", None)
        return block_size if measure is None else measure(block_size, num_edges)


OBJECTIVES: dict[str, Objective] = {
    "causal_lm": Objective(
        key="causal_lm",
        title="因果语言建模",
        family="因果语言模型（GPT、BLOOM、Llama、Qwen）",
        paper="Radford 等，2018，§3.1；打包：Ding 等，2024",
        auto_class="AutoModelForCausalLM",
        causal=True,
        collator="companion.objectives.causal_lm:CausalLMCollator",
        usage="complete",
        starter="starter:bloom",
    ),
    "masked_lm": Objective(
        key="masked_lm",
        title="掩码语言建模",
        family="掩码语言模型（BERT、RoBERTa、ALBERT、ERNIE、SikuBERT）",
        paper="Devlin 等，2019，§3.1；全词：Cui 等，2021，§III；"
        "词组：Lan 等，2020，§4.1；片段：Joshi 等，2020，§3.1",
        auto_class="AutoModelForMaskedLM",
        causal=False,
        collator="companion.objectives.masked_lm:MaskedLMCollator",
        options=(
            "mlm_probability",
            "granularity",
            "preset",
            "user_dictionary",
            "names",
            "similar_words",
            "seed",
        ),
        frozen_options={
            "mlm_probability": 0.15,
            "mask_replace_prob": 1.0,
            "random_replace_prob": 0.0,
        },
        usage="fill",
        starter="starter:bert",
    ),
    "sentence_order": Objective(
        key="sentence_order",
        title="句序判断",
        family="掩码语言模型的预训练类（ALBERT、BERT、ERNIE）",
        paper="Lan 等，2020，§3.1",
        auto_class="AutoModelForPreTraining",
        causal=False,
        collator="companion.objectives.sentence_order:SentenceOrderCollator",
        options=("mlm_probability", "seed"),
        model_options=("order_label",),
        frozen_options={
            "mlm_probability": 0.15,
            "mask_replace_prob": 1.0,
            "random_replace_prob": 0.0,
        },
        usage="fill",
        starter="starter:bert",
        packable=False,
    ),
    "translation_lm": Objective(
        key="translation_lm",
        title="翻译语言建模",
        family="掩码语言模型（XLM、XLM-R、BERT），语料是句对",
        paper="Conneau 与 Lample，2019，§3.3",
        auto_class="AutoModelForMaskedLM",
        causal=False,
        collator="companion.objectives.translation_lm:TranslationLMCollator",
        options=("mlm_probability", "seed"),
        model_options=("type_vocab_size", "num_languages"),
        frozen_options={
            "mlm_probability": 0.15,
            "mask_replace_prob": 1.0,
            "random_replace_prob": 0.0,
        },
        usage="fill",
        starter="starter:bert",
        packable=False,
        pairs="documents",
        pairs_required=True,
    ),
    "replaced_token": Objective(
        key="replaced_token",
        title="替换词元检测",
        family="生成器与判别器的一对（ELECTRA、Funnel、ConvBERT）",
        paper="Clark 等，2020，§2",
        auto_class="AutoModelForPreTraining",
        causal=False,
        collator="companion.objectives.replaced_token:ReplacedTokenCollator",
        options=("mlm_probability", "seed"),
        frozen_options={"mlm_probability": 0.15},
        usage="fill",
        starter="starter:electra",
        exam_collator="companion.objectives.replaced_token:DrawnFakesCollator",
    ),
    "span_corruption": Objective(
        key="span_corruption",
        title="片段破坏",
        family="编码器–解码器（T5、mT5、T5 v1.1）",
        paper="Raffel 等，2020，§3.1.4、§3.3.4",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.span_corruption:SpanCorruptionCollator",
        options=(
            "noise_density",
            "mean_noise_span_length",
            "final_sentinel",
            "span_placement",
            "seed",
        ),
        model_options=("decoder_start_token_id",),
        usage="infill",
        starter="starter:t5",
    ),
    "text_infilling": Objective(
        key="text_infilling",
        title="文本填补",
        family="编码器–解码器（BART、中文 BART、mBART）",
        paper="Lewis 等，2020，§2.2",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.text_infilling:TextInfillingCollator",
        options=(
            "noise",
            "noise_density",
            "poisson_lambda",
            "span_placement",
            "permute_sentences",
            "rotate",
            "seed",
        ),
        model_options=("decoder_start_token_id",),
        frozen_options={"permute_sentences": False},
        usage="infill",
        starter="starter:bart",
    ),
    "masked_seq2seq": Objective(
        key="masked_seq2seq",
        title="掩码序列到序列",
        family="编码器–解码器（MASS 的目标，用于 BART、T5）",
        paper="Song 等，2019，§3",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.masked_seq2seq:MaskedSeq2SeqCollator",
        options=("noise_density", "seed"),
        model_options=("decoder_start_token_id", "keep_positions"),
        # 训练时 10% 原样保留；考题里留着，答案就写在题面上
        frozen_options={"mask_replace_prob": 1.0, "random_replace_prob": 0.0},
        usage="infill",
        starter="starter:bart",
    ),
    "gap_sentences": Objective(
        key="gap_sentences",
        title="缺句生成",
        family="编码器–解码器（PEGASUS、T5、BART）",
        paper="Zhang 等，2020，§3.1",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.gap_sentences:GapSentencesCollator",
        options=("noise_density", "strategy", "seed"),
        model_options=("decoder_start_token_id",),
        usage="infill",
        starter="starter:t5",
    ),
    "mixture_of_denoisers": Objective(
        key="mixture_of_denoisers",
        title="混合去噪",
        family="编码器–解码器（UL2、T5）",
        paper="Tay 等，2023，§3.1",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.mixture_of_denoisers:MixtureOfDenoisersCollator",
        options=("seed",),
        model_options=("decoder_start_token_id",),
        usage="infill",
        starter="starter:t5",
    ),
    "prefix_lm": Objective(
        key="prefix_lm",
        title="前缀语言建模",
        family="只有解码器的模型（GPT-2、Llama、Qwen、GLM）；编码器–解码器（T5、BART）",
        paper="Raffel 等，2020，§3.2.1、§3.2.3；适应：Lester 等，2021，§2.2",
        auto_class="AutoModelForCausalLM",
        causal=True,
        collator="companion.objectives.prefix_lm:PrefixLMCollator",
        options=("seed",),
        model_options=("max_length",),
        masks=("prefix",),
        usage="complete",
        starter="starter:glm",
        pairs="prefix",
        encoder_decoder=Objective(
            key="prefix_lm",
            title="前缀语言建模",
            family="编码器–解码器（T5、BART）",
            paper="Raffel 等，2020，§3.2.1、§3.2.3；适应：Lester 等，2021，§2.2",
            auto_class="AutoModelForSeq2SeqLM",
            causal=False,
            collator="companion.objectives.prefix_lm:PrefixSeq2SeqCollator",
            options=("seed",),
            model_options=("decoder_start_token_id",),
            usage="complete",
            starter="starter:bart",
            pairs="prefix",
        ),
    ),
    "unified_lm": Objective(
        key="unified_lm",
        title="统一语言建模",
        family="掩码语言模型（UniLM 的目标，用于 BERT、RoBERTa、ERNIE、SikuBERT）",
        paper="Dong 等，2019，§2.3–2.5",
        auto_class="AutoModelForMaskedLM",
        causal=False,
        collator="companion.objectives.unified_lm:UnifiedLMCollator",
        options=("mlm_probability", "fine_tuning", "target_mask_probability", "seed"),
        model_options=("type_vocab_size", "max_length"),
        frozen_options={
            "mlm_probability": 0.15,
            "mask_replace_prob": 1.0,
            "random_replace_prob": 0.0,
        },
        masks=("bidirectional", "seq2seq", "left_to_right", "right_to_left"),
        usage="fill",
        starter="starter:bert",
        pairs="segments",
    ),
    "blank_infilling": Objective(
        key="blank_infilling",
        title="自回归填空",
        family="只有解码器的模型（GLM 的目标，用于 GLM、Llama、Qwen）",
        paper="Du 等，2022，§2.1–2.3",
        auto_class="AutoModelForCausalLM",
        causal=False,
        collator="companion.objectives.blank_infilling:BlankInfillingCollator",
        options=(
            "sentence_probability",
            "document_probability",
            "noise_density",
            "poisson_lambda",
            "seed",
        ),
        model_options=("position_rows", "max_length"),
        masks=("prefix",),
        usage="infill",
        starter="starter:glm",
    ),
}


def _class_at(place: str) -> Any:
    """`模块:类` → 类。"""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def get_objective(key: str) -> Objective:
    """按名字取训练目标。

    Raises:
        ObjectiveError: 没有这个名字；消息列出全部名字，并猜最接近的一个。
    """
    if key in OBJECTIVES:
        return OBJECTIVES[key]
    near = difflib.get_close_matches(key, OBJECTIVES, n=1, cutoff=0.4)
    raise ObjectiveError(
        found=f"训练目标 {key!r} 不在名册里",
        expected="、".join(OBJECTIVES) + " 之一",
        remedy=f"是不是想写 {near[0]}" if near else "用 companion objectives 查看名册",
    )
