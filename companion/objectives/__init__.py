"""训练目标：一篇论文一个文件，这里是唯一的名册。

名册不导入 torch，`companion objectives` 因此立刻就有回答。
"""

import difflib
from fnmatch import fnmatchcase

from companion.errors import ObjectiveError
from companion.objectives.objective import Objective

_BOUND = (
    "考的是遮住的字，按权重推算全部的字，所以每字比特数是似然的上界；各行遮多少、遮哪些，"
    "前后相同。标准误是遮法的偶然：同样的文字另抽一套遮法，会差多少。"
)

OBJECTIVES: dict[str, Objective] = {
    "causal_lm": Objective(
        key="causal_lm",
        title="因果语言建模",
        family="因果语言模型（GPT、BLOOM、Llama、Qwen）",
        paper="Radford 等，2018，§3.1；打包：Ding 等，2024",
        auto_class="AutoModelForCausalLM",
        causal=True,
        collator="companion.objectives.causal_lm:CausalLMCollator",
        completion="left_to_right",
        pretrained=("*/*ForCausalLM", "*/*LMHeadModel"),
        scored="考的是文档首个词元之后的每个字。",
        usage="complete",
        starter="starter:bloom",
    ),
    "masked_lm": Objective(
        key="masked_lm",
        title="掩码语言建模",
        family="掩码语言模型（BERT、RoBERTa、ALBERT、ERNIE、SikuBERT）",
        paper="Devlin 等，2019，§3.1；全词：Cui 等，2021，§III；"
        "词组：Lan 等，2020，§4.1；片段与片段边界：Joshi 等，2020，§3.1–3.2；"
        "蒸馏：Sanh 等，2019，§2–3",
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
            "span_boundary",
            "seed",
        ),
        training_options=("teacher",),
        frozen_options={
            "mlm_probability": 0.15,
            "mask_replace_prob": 1.0,
            "random_replace_prob": 0.0,
        },
        pretrained=("*/*ForMaskedLM", "*/*ForPreTraining"),
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
        loss="companion.losses.parts:OrderLoss",
        needs_sentences="才能对调",
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
        training_options=("languages",),
        model_options=("type_vocab_size", "num_languages", "language_ids"),
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
        training_options=("generator",),
        frozen_options={"mlm_probability": 0.15},
        pretrained=("*/ElectraForPreTraining", "*/FunnelForPreTraining"),
        discriminator=True,
        usage="fill",
        starter="starter:electra",
        exam_collator="companion.objectives.replaced_token:DrawnFakesCollator",
        loss="companion.losses.parts:PairLoss",
        exam_loss="companion.losses.parts:DetectionLoss",
    ),
    "span_corruption": Objective(
        key="span_corruption",
        least_tokens=2,
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
        pretrained=("t5/*", "mt5/*", "umt5/*"),
        usage="infill",
        starter="starter:t5",
    ),
    "text_infilling": Objective(
        key="text_infilling",
        least_tokens=2,
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
        pretrained=("bart/*", "mbart/*"),
        usage="infill",
        starter="starter:bart",
    ),
    "masked_seq2seq": Objective(
        key="masked_seq2seq",
        least_tokens=2,
        title="掩码序列到序列",
        family="编码器–解码器（MASS 的目标，用于 BART、T5）",
        paper="Song 等，2019，§3",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.masked_seq2seq:MaskedSeq2SeqCollator",
        options=("noise_density", "seed"),
        model_options=("decoder_start_token_id", "keep_positions"),
        # 训练时 10% 原样保留；评估目标里留着，答案就写在题面上
        frozen_options={"mask_replace_prob": 1.0, "random_replace_prob": 0.0},
        usage="infill",
        starter="starter:bart",
    ),
    "gap_sentences": Objective(
        key="gap_sentences",
        least_tokens=2,
        title="缺句生成",
        family="编码器–解码器（PEGASUS、T5、BART）",
        paper="Zhang 等，2020，§3.1",
        auto_class="AutoModelForSeq2SeqLM",
        causal=False,
        collator="companion.objectives.gap_sentences:GapSentencesCollator",
        options=("noise_density", "strategy", "seed"),
        needs_sentences="挖去一句，还留一句",
        model_options=("decoder_start_token_id",),
        pretrained=("pegasus/*",),
        usage="infill",
        starter="starter:t5",
    ),
    "mixture_of_denoisers": Objective(
        key="mixture_of_denoisers",
        least_tokens=2,
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
        least_tokens=2,
        title="前缀语言建模",
        family="只有解码器的模型（GPT-2、Llama、Qwen、GLM）；编码器–解码器（T5、BART）",
        paper="Raffel 等，2020，§3.2.1、§3.2.3；适应：Lester 等，2021，§2.2",
        auto_class="AutoModelForCausalLM",
        causal=True,
        collator="companion.objectives.prefix_lm:PrefixLMCollator",
        options=("seed",),
        model_options=("max_length",),
        masks=("prefix",),
        completion="prefix",
        scored="考的是前缀之后的每个字；前后切在同样的地方。",
        usage="complete",
        starter="starter:glm",
        pairs="prefix",
        encoder_decoder=Objective(
            key="prefix_lm",
            least_tokens=2,
            title="前缀语言建模",
            family="编码器–解码器（T5、BART）",
            paper="Raffel 等，2020，§3.2.1、§3.2.3；适应：Lester 等，2021，§2.2",
            auto_class="AutoModelForSeq2SeqLM",
            causal=False,
            collator="companion.objectives.prefix_lm:PrefixSeq2SeqCollator",
            options=("seed",),
            model_options=("decoder_start_token_id",),
            completion="prefix",
            scored="考的是前缀之后的每个字；前后切在同样的地方。",
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
        completion="source",
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
        completion="blank",
        infilling="blank",
        pretrained=("glm_two_row/*ForCausalLM", "glm_two_row/*LMHeadModel"),
        usage="infill",
        starter="starter:glm",
    ),
    "fill_in_the_middle": Objective(
        key="fill_in_the_middle",
        title="中间填补",
        family="因果语言模型（StarCoder、CodeLlama、Qwen2.5-Coder 的目标，"
        "用于 GPT、BLOOM、Llama、Qwen）",
        paper="Bavarian 等，2022，§3、§4.2–4.5",
        auto_class="AutoModelForCausalLM",
        causal=True,
        collator="companion.objectives.fill_in_the_middle:FillInTheMiddleCollator",
        options=("fim_rate", "seed"),
        # 评估目标都是 PSM；逐词元切，与从左到右读时考同样的词元
        frozen_options={"fim_rate": 1.0, "spm_rate": 0.0, "character_level": False},
        special_tokens="companion.objectives.fill_in_the_middle:missing_tokens",
        completion="left_to_right",
        infilling="middle",
        scored="考的是中段的字，前后两段都给它看；同样的字只看左边的分数另列一行。",
        usage="infill",
        starter="starter:bloom",
    ),
    "masked_diffusion": Objective(
        key="masked_diffusion",
        title="掩码扩散",
        family="掩码语言模型（BERT、RoBERTa、ModernBERT）；只有解码器的模型（GPT-2、"
        "Llama、Qwen，两边都打开）",
        paper="Sahoo 等，2024，§3；Nie 等，2025，§2.1、§2.4；解码器：Gong 等，2025，§3",
        auto_class="AutoModelForMaskedLM",
        causal=False,
        collator="companion.objectives.masked_diffusion:MaskedDiffusionCollator",
        loss="companion.losses.parts:DiffusionLoss",
        options=("seed",),
        frozen_options={"exact": True},
        exam_draws=4,
        special_tokens="companion.objectives.masked_diffusion:missing_tokens",
        completion="unmask",
        infilling="unmask",
        scored=_BOUND,
        usage="infill",
        starter="starter:bert",
        decoder=Objective(
            key="masked_diffusion",
            title="掩码扩散",
            family="只有解码器的模型（GPT-2、Llama、Qwen、GLM），两边都打开",
            paper="Nie 等，2025，§2.1、§2.4；移位：Gong 等，2025，§3",
            auto_class="AutoModelForCausalLM",
            causal=True,
            collator="companion.objectives.masked_diffusion:OpenedDiffusionCollator",
            loss="companion.losses.parts:DiffusionLoss",
            options=("seed",),
            model_options=("max_length",),
            frozen_options={"exact": True},
            exam_draws=4,
            masks=("bidirectional",),
            special_tokens="companion.objectives.masked_diffusion:missing_tokens",
            completion="unmask",
            infilling="unmask",
            scored=_BOUND,
            usage="infill",
            starter="starter:glm",
        ),
    ),
}


def pretrained_by(model_type: str, architecture: str) -> Objective | None:
    """一种检查点原是用哪个目标预训练的；看不出来时为 None。

    Args:
        model_type: `config.json` 里的 `model_type`。
        architecture: 模型的类名，如 `BertForMaskedLM`。

    >>> goal = pretrained_by("bart", "BartForConditionalGeneration")
    >>> goal.key if goal else None
    'text_infilling'
    """
    name = f"{model_type}/{architecture}"
    found = [
        (len(pattern), goal)
        for goal in OBJECTIVES.values()
        for pattern in goal.pretrained
        if fnmatchcase(name, pattern)
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


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
