"""做错与做对并排：失败目录每一格用到的四个函数，读得完，也什么都不拦着。

    rows = rows_of(tokenizer, read_corpus("sample:modern"))
    batches = draw(rows, CausalLMCollator(tokenizer), steps=8, seed=42)
    losses = fit(model, batches)
    contrast("学习率太高", {"末步": wrong[-1]}, {"末步": losses[-1]})

`companion train` 会拒绝目录里的大半错误，所以犯错用不得它；这里的循环是一个普通的 torch
循环，损失由 transformers 的模型自己算。

形状字母：B 行数，L 行长。
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from companion.batch import Batch, Feature
from companion.errors import EvaluationError
from companion.notebook.tables import Table, fixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from companion.corpus.document import Document

ROW_CHARS = 60
"""一行至多多少字。"""
ROWS = 4
"""一步几行。"""
_SHOWN = 6
"""表里一条曲线写出几个点。"""

Curve = Sequence[float] | Mapping[float, float]
"""一条曲线：各点的数，或横轴 → 数；前者的横轴从 1 数起。"""
Outcome = Mapping[str, float | Curve]
"""一种做法的结果：名字 → 一个数或一条曲线；第一个是看得出错的那个数。"""


@dataclass(frozen=True)
class Contrast:
    """做错与做对的结果，同名的可比；由 `contrast` 给出。"""

    title: str
    wrong: Outcome
    right: Outcome
    worse: str
    x: str

    @property
    def tell(self) -> str:
        """看得出错的那个数，两边的第一项。"""
        return next(iter(self.wrong))

    @property
    def betrayed(self) -> bool:
        """做错的果然更坏；不是有限的数，总是更坏。"""
        wrong, right = (
            cast("float", each[self.tell]) for each in (self.wrong, self.right)
        )
        if not (math.isfinite(wrong) and math.isfinite(right)):
            return math.isfinite(right)
        return wrong > right if self.worse == "higher" else wrong < right

    def plot(self, **options: Any) -> "Figure":
        """第一条曲线的对照图；`options` 同 `companion.plots.curves.plot_contrast`。

        Raises:
            EvaluationError: 结果里没有曲线。
        """
        from companion.plots.curves import Line, plot_contrast

        names = [name for name, each in self.right.items() if not _is_number(each)]
        if not names:
            raise EvaluationError(
                found=f"{self.title} 的结果里只有单个的数",
                expected="至少一条曲线，写成数的列表",
                remedy="把每一步的数也交给 contrast",
            )
        lines: list[Line] = []
        for label, outcome in (("做错", self.wrong), ("做对", self.right)):
            x, y = zip(*points(outcome[names[0]]), strict=True)
            lines.append(Line(name=label, x=x, y=y, right=label == "做对"))
        return plot_contrast(
            lines,
            title=f"{self.title}：{names[0]}",
            xlabel=self.x,
            ylabel=names[0],
            **options,
        )

    def __str__(self) -> str:
        rows = [
            [label, *map(_written, outcome.values())]
            for label, outcome in (("做错", self.wrong), ("做对", self.right))
        ]
        wrong, right = (_written(each[self.tell]) for each in (self.wrong, self.right))
        ending = "" if self.betrayed else "；方向不对，这一次没有重现"
        return (
            f"{self.title}\n{Table(['', *self.wrong], rows)}\n"
            f"看“{self.tell}”：做错 {wrong}，做对 {right}{ending}"
        )

    __repr__ = __str__


def contrast(
    title: str, wrong: Outcome, right: Outcome, *, worse: str = "higher", x: str = "步"
) -> Contrast:
    """打印做错与做对的结果，一边一行，最后一行是看得出错的那个数。

    Args:
        title: 哪一种失败。
        wrong: 做错的结果，名字 → 一个数或一条曲线；第一个须是单个的数，由它看得出错。
        right: 做对的结果，名字与次序相同。
        worse: 做错的那个数应当更高（`higher`）还是更低（`lower`）。
        x: 曲线的横轴是什么。

    Raises:
        EvaluationError: 两边的名字不同，或第一个不是单个的数。

    >>> contrast("多移一位", {"第一步": 7.2}, {"第一步": 5.0}).betrayed
    多移一位
          第一步
    做错  7.200
    做对  5.000
    看“第一步”：做错 7.200，做对 5.000
    True
    """
    if [*wrong] != [*right] or not _is_number(next(iter(wrong.values()), ())):
        raise EvaluationError(
            found=f"做错的结果是 {[*wrong]}，做对的是 {[*right]}",
            expected="两边的名字与次序相同，第一个是单个的数",
            remedy="把看得出错的那个数写在最前面，例如末步的损失",
        )
    found = Contrast(title, wrong, right, worse, x)
    print(found)
    return found


def points(curve: Any) -> list[tuple[float, float]]:
    """一条曲线的各点（横，纵）。

    >>> points([5.0, 4.0]), points({8: 4.5})
    ([(1, 5.0), (2, 4.0)], [(8, 4.5)])
    """
    return [*(curve.items() if isinstance(curve, Mapping) else enumerate(curve, 1))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _written(value: Any) -> str:
    """一个数，或一条曲线上均匀取的几个点；不是有限的数照写，个数不写小数。"""
    if not _is_number(value):
        heights = [y for _, y in points(value)]
        places = {round(at * (len(heights) - 1) / (_SHOWN - 1)) for at in range(_SHOWN)}
        return " → ".join(_written(heights[at]) for at in sorted(places))
    return (
        str(value)
        if isinstance(value, int) or not math.isfinite(value)
        else fixed(value)
    )


def rows_of(tokenizer: Any, documents: "Iterable[Document]") -> list[Feature]:
    """文档切成一行一行，不打包；两侧的特殊词元照分词器的习惯加。

    Args:
        tokenizer: 分词器。
        documents: `read_corpus` 读出的文档。

    Returns:
        一行一个样本，只有 `input_ids`（整数的列表）。
    """
    pieces = [
        document.text[at : at + ROW_CHARS]
        for document in documents
        for at in range(0, len(document.text), ROW_CHARS)
    ]
    return [{"input_ids": ids} for ids in tokenizer(pieces).input_ids]


def draw(
    rows: Sequence[Feature],
    collator: Callable[[list[Feature]], Any],
    steps: int,
    seed: int,
) -> list[Batch]:
    """每步抽四行，整理成一批；种子相同，抽到的行与噪声就相同。

    Args:
        rows: 训练的行。
        collator: 整理器，本包的或 transformers 的。
        steps: 几批。
        seed: 随机种子；样本没有编号，噪声取自 torch 的全局随机流，也由它定。
    """
    import torch

    order = random.Random(seed)
    torch.manual_seed(seed)
    return [dict(collator(order.sample(rows, ROWS))) for _ in range(steps)]


def fit(
    model: Any,
    batches: Iterable[Batch],
    learning_rate: float = 1e-3,
    watch: Callable[[], object] | None = None,
) -> list[float]:
    """AdamW，梯度裁剪，学习率不变；就地改动模型。

    Args:
        model: 带输出头的模型；损失照它自己算的。
        batches: 每步一批。
        learning_rate: 学习率；缺省的合用于起步模型。
        watch: 第 0、4、8……步之前与走完之后各调用一次，例如考一次留出集。

    Returns:
        每步的损失，每个目标多少奈特。
    """
    import torch

    losses: list[float] = []
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    for step, batch in enumerate(batches):
        if watch is not None and step % 4 == 0:
            watch()
        model.train()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    if watch is not None:
        watch()
    return losses


def mean_loss(model: Any, batches: Sequence[Batch]) -> float:
    """几批的平均损失，每个目标多少奈特；不训练。"""
    import torch

    model.eval()
    with torch.no_grad():
        return sum(float(model(**each).loss) for each in batches) / len(batches)
