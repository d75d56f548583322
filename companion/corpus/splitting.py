"""切分：按文档内容的哈希分到训练集或留出集。

一篇归哪边只由它自己的文字和种子决定，所以：打乱次序不变，添加新文档时旧文档不动，
重复的文档总在同一边。按行号或随机抽取做不到这三点，留出集会随数据的增删漏进训练集。
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from companion.corpus.dedup import content_key
from companion.corpus.document import Document
from companion.corpus.documents import Documents
from companion.errors import CorpusError

_SENTENCE_END = re.compile("[。！？；…][”’」』）]*|[.!?]\\s")


@dataclass(frozen=True)
class Split:
    """切分的结果。

    Args:
        train: 训练集，保持原来的次序。
        valid: 留出集，保持原来的次序。
        method: `hash`（按文档）或 `tail`（单篇留尾）。
    """

    train: Sequence[Document]
    valid: Sequence[Document]
    method: str

    def as_dict(self) -> dict[str, object]:
        """供 `--json` 输出的字典。"""
        return {
            "method": self.method,
            "train": {"documents": len(self.train), "characters": _size(self.train)},
            "valid": {"documents": len(self.valid), "characters": _size(self.valid)},
        }


def split_documents(
    docs: Iterable[Document], valid_ratio: float = 0.05, seed: int = 0
) -> Split:
    """按文档内容切成训练集与留出集，两边都不空。

    每篇的哈希落在 [0, 1)，小于 `valid_ratio` 的留出。文档很少、恰好一篇也没落进去时，
    取哈希最小的一篇（全落进去时，放回哈希最大的）：仍与次序无关，只是再添文档时
    这一篇可能回到训练集。

    Args:
        docs: 文档；内容相同的算一篇，总在同一边。
        valid_ratio: 留出的文档比例，(0, 1)。
        seed: 换一个种子就换一种切法。

    Returns:
        训练集与留出集。

    Raises:
        CorpusError: 比例越界，或内容不同的文档不足两篇。
    """
    _check_ratio(valid_ratio)
    listed = docs if isinstance(docs, Sequence) else list(docs)
    points = _points(listed, seed)
    distinct = np.unique(points)
    if len(distinct) < 2:
        raise CorpusError(
            found=f"内容不同的文档只有 {len(distinct)} 篇",
            expected="至少两篇，才能各放一边",
            remedy="用空行把长文分成几篇，或用 split_tail 留出文末",
        )
    # 第二小的哈希作界，至少留出一篇；最大的作界，至少训练一篇
    held = points < min(max(valid_ratio, distinct[1]), distinct[-1])
    return Split(_chosen(listed, ~held), _chosen(listed, held), "hash")


def split_point(doc: Document, seed: int = 0) -> float:
    """文档在 [0, 1) 上的位置，只由内容与种子决定；流式切分时与比例比较即可。"""
    return _point(content_key(doc), seed)


def _point(key: bytes, seed: int) -> float:
    digest = hashlib.blake2b(key, digest_size=8, key=str(seed).encode("ascii")).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _points(docs: Sequence[Document], seed: int) -> NDArray[np.float64]:
    """各篇的位置，(D,)；磁盘上的语料已经记下了内容的指纹。"""
    if isinstance(docs, Documents):
        keys = (key.tobytes() for key in docs.content_keys())
    else:
        keys = map(content_key, docs)
    return np.fromiter((_point(key, seed) for key in keys), np.float64, len(docs))


def _chosen(docs: Sequence[Document], mask: NDArray[np.bool_]) -> Sequence[Document]:
    places = np.flatnonzero(mask)
    if isinstance(docs, Documents):
        return docs.select(places)
    return [docs[place] for place in places.tolist()]


def split_tail(doc: Document, valid_ratio: float = 0.05) -> Split:
    """单篇长文：留出连续的文末一段，在句末断开。

    随机抽句会让留出的句子与训练的句子互为上下文；文末一段则只在一处相接。

    Args:
        doc: 一篇单语文档。
        valid_ratio: 留出的字数比例，(0, 1)。

    Returns:
        训练集与留出集各一篇。

    Raises:
        CorpusError: 比例越界、是句对，或不足两句。
    """
    _check_ratio(valid_ratio)
    if doc.target is not None:
        raise CorpusError(
            found=f"{doc.id} 是句对",
            expected="一篇单语长文",
            remedy="句对是一行一个文档，改用 split_documents",
        )
    text = doc.text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    ends = [end for end in ends if text[:end].strip() and text[end:].strip()]
    if not ends:
        raise CorpusError(
            found=f"{doc.id} 只有一句话",
            expected="至少两句，才能留出文末",
            remedy="另备一份留出集，用 --valid 指定",
        )
    wanted = len(text) * (1 - valid_ratio)
    cut = min(ends, key=lambda end: (abs(end - wanted), end))
    train = replace(doc, text=text[:cut].strip(), id=f"{doc.id}:train")
    valid = replace(doc, text=text[cut:].strip(), id=f"{doc.id}:valid")
    return Split([train], [valid], "tail")


def split_corpus(
    docs: Iterable[Document], valid_ratio: float = 0.05, seed: int = 0
) -> Split:
    """多篇按哈希切，单篇留文末；用了哪一种写在 `method` 里。

    Args:
        docs: 文档。
        valid_ratio: 留出的比例，(0, 1)。
        seed: 种子，只用于按哈希切。

    Returns:
        训练集与留出集。

    Raises:
        CorpusError: 没有文档，或无从切分。
    """
    listed = docs if isinstance(docs, Sequence) else list(docs)
    if len(np.unique(_points(listed, seed))) == 1:
        return split_tail(listed[0], valid_ratio)
    return split_documents(listed, valid_ratio, seed)


def _check_ratio(valid_ratio: float) -> None:
    if not 0 < valid_ratio < 1:
        raise CorpusError(
            found=f"valid_ratio 是 {valid_ratio}",
            expected="大于 0、小于 1 的数",
            remedy="通常取 0.05",
        )


def _size(docs: Sequence[Document]) -> int:
    return sum(doc.num_chars for doc in docs)
