"""一个可见矩阵，连同行与列上的词元；不需要 matplotlib。"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True)
class AttentionPanel:
    """哪个查询看得见哪个键；行是查询，列是键。"""

    title: str
    visible: "ArrayLike"
    """(Q, K) bool，真处看得见。"""
    queries: Sequence[str] | None = None
    """行上的词元，(Q,)。"""
    keys: Sequence[str] | None = None
    """列上的词元，(K,)。"""
    query_documents: Sequence[int] | None = None
    """行属于第几个文档，(Q,)；交界处画粗线。"""
    key_documents: Sequence[int] | None = None
    """列属于第几个文档，(K,)。"""
    parts: Sequence[int] | None = None
    """自注意力的一行分成几部分（前缀与后缀，A 与 B），(Q,)；交界处画虚线。"""
    cross: bool = False
    """行与列是两条不同的行（交叉注意力）。"""
