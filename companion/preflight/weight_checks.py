"""体检之权重：齐不齐，是不是数，该共享的共享没有。不跑模型，只看张量。"""

from companion.preflight.findings import Finding, Subject

_SHOWN = 3
_SMALLEST_MATRIX = 2
"""两边都多于这么多的才算矩阵：RoBERTa 唯一一行的段嵌入本来就全是 0。"""


def check_weights(subject: Subject) -> Finding:
    """张量齐不齐：缺的、没用上的、不是数的、整块都一样的。"""
    broken = _not_finite(subject)
    if broken:
        return Finding(
            "error",
            "weights",
            f"{_named(broken)} 里有 NaN 或无穷大",
            "转成 fp16 时溢出了，或训练中途坏掉之后才存的",
            "换一份完好的检查点；自己转的，从 fp32 重新转，或转成 bf16",
        )
    checkpoint = subject.checkpoint
    if checkpoint.weight_notices:
        return Finding(
            "warning",
            "weights",
            "；".join(checkpoint.weight_notices),
            "检查点只存了一部分，或 config.json 与权重不是一套",
            "换一份带全部权重的检查点；确要用它，多训练一程再看指标",
        )
    flat = _constant(subject)
    if flat:
        return Finding(
            "warning",
            "weights",
            f"{_named(flat)} 整块是同一个数",
            "转换或拼合检查点时漏了这几个张量",
            "与原来的检查点逐个张量核对，重新转换",
        )
    count = sum(1 for _ in subject.model.parameters())
    return Finding("ok", "weights", f"{count} 个张量齐全，都是有限的数")


def check_tied_weights(subject: Subject) -> Finding:
    """配置说共享的输入输出词嵌入，是不是真的共享。"""
    source = subject.model.get_input_embeddings().weight
    output = subject.model.get_output_embeddings()
    if subject.checkpoint.conflicting_tie:
        return Finding(
            "warning",
            "tied_weights",
            "配置写着共享词嵌入，文件里的两份却不相等",
            "改过其中一份（扩词表、合并、剪枝）而没有改另一份",
            "弄清哪一份是对的；两份都要，就在 config.json 写 "
            "tie_word_embeddings: false",
        )
    if not getattr(subject.model.config, "tie_word_embeddings", False) or (
        output is None
    ):
        return Finding("ok", "tied_weights", "输入与输出词嵌入本来就各是各的")
    if output.weight.data_ptr() == source.data_ptr():
        return Finding("ok", "tied_weights", "输入与输出词嵌入共享同一份权重")
    return Finding(
        "warning",
        "tied_weights",
        "配置写着共享词嵌入，实际是两份",
        "改过词嵌入而没有重新绑定；保存后其中一份会丢",
        "调用 model.tie_weights()，或把 tie_word_embeddings 改为 false",
    )


def _not_finite(subject: Subject) -> list[str]:
    # 求和便知：有一个不是有限的数，和就不是；不另占一份内存
    return [
        name
        for name, weight in subject.model.named_parameters()
        if not weight.detach().sum().isfinite() and not weight.detach().isfinite().all()
    ]


def _constant(subject: Subject) -> list[str]:
    return [
        name
        for name, weight in subject.model.named_parameters()
        if weight.dim() > 1
        and min(weight.shape) > _SMALLEST_MATRIX
        and weight.detach().min() == weight.detach().max()
    ]


def _named(names: list[str]) -> str:
    more = f" 等 {len(names)} 个张量" if len(names) > _SHOWN else ""
    return "、".join(names[:_SHOWN]) + more
