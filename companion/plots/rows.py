"""“词元 → 输入 → 标签”的行：一个样本在训练目标眼里的样子。

这里没有图，也不需要 matplotlib。图在 `labels.py`，终端里的表和替代文字在 `texts.py`；
编码器–解码器的样本有两条行，在 `pairs.py`。
"""

from dataclasses import dataclass
from typing import Literal

from companion.errors import ObjectiveError

Role = Literal["masked", "replaced", "kept", "next", "dropped", "ignored"]
"""一列在损失里的角色：

masked 遮住 · replaced 换成别的词元 · kept 原样留下但要预测 · next 由别的列预测 ·
dropped 有标签而没有位置去预测它 · ignored 标签是 −100。
"""

ROLE_WORDS: dict[Role, str] = {
    "masked": "遮住，要还原",
    "replaced": "换成别的词元，要还原",
    "kept": "原样留下，也要预测",
    "next": "由前一列的输出预测",
    "dropped": "有标签，但没有位置预测它",
    "ignored": "不计损失",
}


_ROWS = ("tokens", "inputs", "labels", "predicted_by", "special", "document")


@dataclass(frozen=True)
class LabelRows:
    """一个样本的几行，每行 T 列，列号与张量的位置相同（从 0 数起）。

    Raises:
        ObjectiveError: 各行长短不一，或预测来源越界、与标签矛盾。
    """

    title: str
    """图题，如“掩码语言建模”。"""
    tokens: list[str]
    """原来的词元，(T,)。"""
    inputs: list[str]
    """模型看到的词元，(T,)。"""
    labels: list[str | None]
    """标签，(T,)；None 表示 −100。与 transformers 相同，没有移位。"""
    predicted_by: list[int | None]
    """哪一列的输出预测本列的标签，(T,)；因果语言建模是 t − 1，掩码语言建模是 t。"""
    special: list[bool]
    """特殊词元处为真，(T,)。"""
    document: list[int]
    """本列属于第几个文档，(T,)，从 0 数起；填充处为 −1。"""
    mask_token: str | None = "[MASK]"
    """哪个词元表示遮住；没有时为 None。"""

    def __post_init__(self) -> None:
        """各行等长；标签是 −100 处没有预测来源；来源在行内。"""
        lengths = {name: len(getattr(self, name)) for name in _ROWS}
        if len(set(lengths.values())) != 1 or not self.tokens:
            raise ObjectiveError(
                found="各行的列数是 "
                + "、".join(f"{name} {n}" for name, n in lengths.items()),
                expected="各行列数相同，且至少 1 列",
                remedy="从同一个样本的同一行取出词元、输入和标签",
            )
        for column, (label, source) in enumerate(
            zip(self.labels, self.predicted_by, strict=True)
        ):
            if source is None:
                continue
            if label is None or not 0 <= source < len(self.tokens):
                raise ObjectiveError(
                    found=f"第 {column} 列的标签是 {label!r}，预测来源是 {source}",
                    expected="标签为 −100 的列没有来源，其余来源在行内",
                    remedy="标签为 None 时把 predicted_by 也设为 None",
                )

    def __len__(self) -> int:
        """列数 T。"""
        return len(self.tokens)

    @property
    def is_shifted(self) -> bool:
        """有标签由别的列预测（因果语言建模）。"""
        return "next" in self.roles()

    def roles(self) -> list[Role]:
        """每一列在损失里的角色，(T,)。"""
        return [self._role(column) for column in range(len(self))]

    def _role(self, column: int) -> Role:
        if self.labels[column] is None:
            return "ignored"
        source = self.predicted_by[column]
        if source is None:
            return "dropped"
        if source != column:
            return "next"
        if self.inputs[column] == self.mask_token:
            return "masked"
        return "kept" if self.inputs[column] == self.tokens[column] else "replaced"

    def arrows(self) -> list[tuple[int, int]]:
        """（作出预测的列，标签所在的列），按标签的先后。"""
        return [
            (source, column)
            for column, source in enumerate(self.predicted_by)
            if source is not None
        ]
