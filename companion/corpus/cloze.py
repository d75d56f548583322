"""样例的填空题：问的是虚构的人名、地名、官名，没有一个模型事先会知道。

继续预训练前后各答一遍，答对的增多，就是从语料里学来的。
"""

from dataclasses import dataclass
from pathlib import Path

from companion.corpus.catalog import NAMED
from companion.corpus.encoding import read_lines
from companion.errors import CorpusError


@dataclass(frozen=True)
class Cloze:
    """一道填空：只有读过样例才答得出的知识。

    Args:
        side: `classical` 或 `modern`。
        text: 题面：文言侧含 `[MASK]`，一个一字（填空）；白话侧是半句话（续写）。
        answer: 答案；文言侧与 `[MASK]` 一样多的字，白话侧是续写应有的开头。
        kind: 题型，如 `place`（地名）、`person`（人名）。
    """

    side: str
    text: str
    answer: str
    kind: str


def read_cloze(side: str) -> list[Cloze]:
    """样例的填空题。

    Args:
        side: `classical` 或 `modern`。

    Returns:
        这一侧的题目，按文件中的次序。

    Raises:
        CorpusError: 侧名不对，或题目文件损坏。
    """
    if side not in ("classical", "modern"):
        raise CorpusError(
            found=f"没有“{side}”这一侧的填空题",
            expected="classical 或 modern",
            remedy="文言用 classical，白话用 modern",
        )
    folder = NAMED["sample"].folder()
    path = Path(str(folder)) / "cloze.tsv"
    rows = [line.split("\t") for line in read_lines(path) if line]
    header = ["side", "text", "answer", "kind"]
    if rows[0] != header or any(len(row) != len(header) for row in rows):
        raise CorpusError(
            found=f"{path} 的列不是 {'、'.join(header)}",
            expected="四列的制表符分隔表",
            remedy="重新安装 cpt-companion",
        )
    return [Cloze(*row) for row in rows[1:] if row[0] == side]
