"""“词元 → 输入 → 标签”的行：一个样本在训练目标眼里的样子，以及它的文字说法。

这里没有图，也不需要 matplotlib。图在 `labels.py`，终端里的表和替代文字在这里。
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from companion.errors import ObjectiveError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

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


def alt_text(rows: LabelRows, *, limit: int = 10) -> str:
    """标签图的替代文字：不看图也知道哪些列计损失、各由谁预测。

    Args:
        rows: 一个样本的几行。
        limit: 至多逐列说出多少个标签，其余只报数目。
    """
    arrows = rows.arrows()
    documents = len({d for d in rows.document if d >= 0})
    text = f"{rows.title}的标签对齐图：{len(rows)} 列，{documents} 个文档，"
    text += f"其中 {len(arrows)} 列计损失，"
    text += f"{rows.labels.count(None)} 列的标签是 −100。"
    if rows.is_shifted:
        text += "标签与输入同列，箭头从前一列的输入斜指它所预测的标签。"
    said = [_say(rows, source, column) for source, column in arrows[:limit]]
    if said:
        rest = f"，其余 {len(arrows) - limit} 列从略" if len(arrows) > limit else ""
        text += f"列号从 0 数起：{'；'.join(said)}{rest}。"
    return text


def _say(rows: LabelRows, source: int, column: int) -> str:
    role = rows.roles()[column]
    if role == "next":
        return f"第 {source} 列“{rows.inputs[source]}”预测“{rows.labels[column]}”"
    deeds = {
        "masked": "遮住",
        "replaced": f"换成“{rows.inputs[column]}”",
        "kept": "原样留下",
    }
    return f"第 {column} 列{deeds[role]}，标签是“{rows.labels[column]}”"


def labels_table(rows: LabelRows) -> "Table":
    """同样的几行，排成终端里的表：一列一行，长文本也不折断。"""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(rows.title))  # Text：标题里的方括号不是样式标记
    for name in ("列", "文档", "词元", "输入", "标签", "预测者", "说明"):
        numeric = name in ("列", "文档", "预测者")
        table.add_column(name, justify="right" if numeric else "left")
    for column, role in enumerate(rows.roles()):
        source, label = rows.predicted_by[column], rows.labels[column]
        document = rows.document[column]
        last = column + 1 == len(rows) or rows.document[column + 1] != document
        special = "特殊词元，" if rows.special[column] and role == "ignored" else ""
        changed = rows.inputs[column] != rows.tokens[column]
        table.add_row(
            str(column),
            str(document + 1) if document >= 0 else "填充",
            _cell(rows.tokens[column], "dim" if rows.special[column] else ""),
            _cell(rows.inputs[column], "bold yellow" if changed else ""),
            Text("−100", style="dim") if label is None else _cell(label, "bold blue"),
            "" if source is None else str(source),
            Text(special + ROLE_WORDS[role], style="dim" if label is None else ""),
            end_section=last,
        )
    return table


def _cell(token: str, style: str) -> "Text":
    from rich.text import Text

    shown = token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
    return Text(shown or "∅", style=style)
