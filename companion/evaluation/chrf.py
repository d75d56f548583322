"""chrF：译文与参考译文有多少相同的字片段。

    译文  拔延传令各帐   单字 6 个，命中 5 个：  拔延传令各帐 ↔ 拔延传令诸帐
    参考  拔延传令诸帐   二字 5 个，命中 3 个：  拔延、延传、传令

长 1 到 6 的片段各求精确率与召回率，平均之后合成 F 值，召回算得重（β = 2）：

    F = (1 + β²) · P · R / (β² · P + R)

按字不按词，中文不必先切词。各句的片段数先相加再求比例；两边都有这么长的片段，这个长度
才算。与 sacrebleu 缺省设置的 chrF2 相等（测试核对）。

出处：Popović，2015，“chrF: character n-gram F-score for automatic MT evaluation”，§2。
"""

from collections import Counter
from collections.abc import Sequence

from companion.errors import EvaluationError

ORDER = 6
BETA = 2


def chrf(written: Sequence[str], references: Sequence[str]) -> float:
    """整份译文的 chrF。

    Args:
        written: 译文，一句一项。
        references: 参考译文，逐句对应。

    Returns:
        0 到 100；完全相同是 100。

    Raises:
        EvaluationError: 两边句数不同，或一句也没有。

    >>> round(chrf(["拔延传令各帐"], ["拔延传令诸帐"]), 1)
    37.8
    """
    if len(written) != len(references) or not references:
        raise EvaluationError(
            found=f"译文 {len(written)} 句，参考译文 {len(references)} 句",
            expected="逐句对应，至少一句",
            remedy="用同一份句对的两侧",
        )
    precisions: list[float] = []
    recalls: list[float] = []
    for order in range(1, ORDER + 1):
        ours, theirs, shared = 0, 0, 0
        for text, reference in zip(written, references, strict=True):
            left, right = _pieces(text, order), _pieces(reference, order)
            # 参考太短、没有这么长的片段时，译文的也不算
            ours += left.total() if right else 0
            theirs += right.total()
            shared += (left & right).total()
        if ours and theirs:
            precisions.append(shared / ours)
            recalls.append(shared / theirs)
    if not any(precisions):
        return 0.0
    precision = sum(precisions) / len(precisions)
    recall = sum(recalls) / len(recalls)
    weight = BETA**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall)


def _pieces(text: str, order: int) -> Counter[str]:
    """长 `order` 的片段各有几个；空白不算。"""
    bare = "".join(text.split())
    return Counter(bare[at : at + order] for at in range(len(bare) - order + 1))
