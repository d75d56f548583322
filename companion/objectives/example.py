"""一个样本破坏之后、补齐之前的样子：各个目标共同的产物。

训练只要批量，不必经过它；评估要知道哪些标签算数、各自是原文的第几个词元，`companion
show` 要把它画出来，都从这里读。

形状字母：L 输入的长度，K 标签的长度；只有一个栈的模型 K = L，编码器–解码器的 K 是解码器
一行的长度。
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Example:
    """一个样本：输入、标签，以及标签与原文的对应。"""

    input_ids: Tensor
    """模型（编码器）看到的，(L,) int64。"""
    labels: Tensor
    """(K,) int64；−100 处不计损失。"""
    origin: Tensor
    """每个标签是这一行的第几个词元（含特殊词元），(K,) int64；原文没有的为 −1。"""
    hidden: Tensor
    """这个标签所指的词元模型看不见，(K,) bool；评估只考这些，照抄看得见的不算本事。"""
    documents: Tensor
    """输入的每个位置属于行内第几个文档，(L,) int64。"""

    decoder_input_ids: Tensor | None = None
    """解码器的输入，(K,) int64；只有编码器–解码器有。"""
    decoder_documents: Tensor | None = None
    """解码器的每个位置属于行内第几个文档，(K,) int64。"""
    decoder_visible: Tensor | None = None
    """解码器的哪些位置真有内容，(K,) bool；None 表示全部（MASS 只有片段处有）。"""

    prefix: Tensor | None = None
    """输入的哪些位置是前缀（同一文档里谁都看得见），(L,) bool；只有前缀语言模型有。"""
    reverse: bool = False
    """前缀之外改为只看自己与右边（UniLM 的从右到左）。"""
    position_ids: Tensor | None = None
    """(L,) 或 (2, L) int64；None 表示从 0 数起。"""
    token_type_ids: Tensor | None = None
    """(L,) int64。"""
    span_borders: Tensor | None = None
    """各标签所在片段外侧的两个词元在哪里，(L, 2) int64，没有的为 −100；只有片段边界目标
    用（`span_borders`）。"""
