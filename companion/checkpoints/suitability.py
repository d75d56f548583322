"""检查点合不合训练目标：是不是那一类模型，分词器与权重配不配套。"""

from typing import TYPE_CHECKING, Any

from companion.errors import ModelError

if TYPE_CHECKING:
    from companion.objectives import Objective

_SMALLEST_COVERAGE = 0.5
"""分词器的词表不足词嵌入的这一比例时，断定读错了分词器。"""


def check_family(config: Any, goal: "Objective", name: str) -> None:
    """编码器、解码器、编码器–解码器各有其目标。

    Args:
        config: 检查点的 transformers 设置。
        goal: 训练目标。
        name: 用户给的名字。

    Raises:
        ModelError: 不是这个目标要的那一类。
    """
    import transformers

    wanted = getattr(transformers, goal.auto_class)
    bidirectional = transformers.AutoModelForMaskedLM
    if config.is_encoder_decoder:
        kind = "编码器–解码器"
    elif type(config) not in bidirectional._model_mapping:
        kind = "解码器"
    else:  # BERT 等设 is_decoder 后只看左边，可作解码器；有的架构没有这一项
        kind = "解码器" if getattr(config, "is_decoder", False) else "编码器"
    needed = {
        "AutoModelForMaskedLM": "编码器",
        "AutoModelForPreTraining": "编码器",
        "AutoModelForCausalLM": "解码器",
        "AutoModelForSeq2SeqLM": "编码器–解码器",
    }[goal.auto_class]
    if kind == needed and type(config) in wanted._model_mapping:
        if not goal.judges_order:
            return
        from companion.losses.sentence_order import judges_order

        if judges_order(wanted._model_mapping[type(config)]):
            return
    other = {
        "编码器": "masked_lm",
        "解码器": "causal_lm",
        "编码器–解码器": "span_corruption（T5 类）、text_infilling（BART 类）",
    }[kind]
    change = f"，或改用目标 {other}" if kind != needed else ""
    raise ModelError(
        found=f"{name} 是{kind}（model_type：{config.model_type}）",
        expected=f"{goal.key} 用{needed}：{goal.family}",
        remedy=f"换一个这样的检查点（例如 {goal.starter}）{change}",
    )


def check_fit(model: Any, tokenizer: Any, goal: "Objective", name: str) -> None:
    """分词器与模型、与目标是否相配。

    Args:
        model: 已打开的模型，或一对模型。
        tokenizer: 它的分词器。
        goal: 训练目标。
        name: 用户给的名字。

    Raises:
        ModelError: 编号超出词嵌入，词表差得太多，或没有掩码词元。
    """
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            found=f"{name} 的分词器有编号 {largest}，词嵌入只有 {rows} 行",
            expected=f"每个词元的编号小于 {rows}",
            remedy="换回与这份权重配套的分词器；若添过新词，"
            "先用 model.resize_token_embeddings 扩词嵌入并保存",
        )
    if len(tokenizer) < _SMALLEST_COVERAGE * rows:
        raise ModelError(
            found=f"{name} 的分词器只有 {len(tokenizer)} 个词元，词嵌入有 {rows} 行",
            expected="两者大致相等；差这么多，多半是缺词表文件或读错了分词器",
            remedy="补齐 tokenizer.json 或 vocab.txt；中文的 ALBERT、RoBERTa、GPT-2 "
            "若用 BERT 词表，在 config.json 写上 tokenizer_class: BertTokenizer",
        )
    if goal.usage == "fill" and tokenizer.mask_token_id is None:
        raise ModelError(
            found=f"{name} 的分词器没有掩码词元",
            expected=f"{goal.key} 的分词器有 mask_token（BERT 的是 [MASK]）",
            remedy=f"换一个这样的检查点（例如 {goal.starter}），或改用目标 causal_lm",
        )
