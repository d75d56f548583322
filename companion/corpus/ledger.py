"""词元的账：进来多少，放进行里多少，丢掉多少、为什么，填充占了多少。

账分两段，每段都要平：

    语料    词元 = 放入行中 + 丢弃（按原因）
    一遍    行中词元 = 放入的词元 + 特殊词元
    训练    格子 = 过了模型的词元 + 填充        （各轮合计；一格是批量张量的一个位置）

2023 年流行的「一行一个样本、填充到最长、超长截断」会悄悄丢掉长文的后半、把多半算力花在
填充上；账本让这两样都写在第一步之前。
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.cells import cell_len

from companion.corpus.packing import BlockDataset
from companion.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class TokenLedger:
    """一份语料、一次训练的词元账，单位都是词元，另注明者除外。"""

    tokens_in: int
    """语料分词所得，不含特殊词元。"""
    placed: int
    """放入行中的，每个词元至多一次。"""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """没有放入行中的，原因到数目。"""
    special: int = 0
    """各行为片段与文档末尾另添的特殊词元。"""
    row_tokens: int = 0
    """各行之和，含特殊词元。"""
    documents: int = 0
    """文档数（篇）。"""
    pieces: int = 0
    """片段数（片）；多于文档数，说明有长文切开了。"""
    num_rows: int = 0
    """行数（行）。"""
    characters: int = 0
    """语料的字数（字）。"""
    dropped_characters: int = 0
    """分词器没有写进任何词元的字，多为空白（字）。"""
    unknown: int = 0
    """分词器不认识、写成 [UNK] 的词元。"""
    epochs: float = 0.0
    """训练了几遍（遍）；以下各项在训练填写之前都是 0。"""
    trained: int = 0
    """过了模型的词元，各轮合计，含特殊词元。"""
    padded: int = 0
    """填充。"""
    grid: int = 0
    """批量张量的全部位置。"""
    targets: int = 0
    """计损失的位置。"""

    def with_training(
        self, *, epochs: float, trained: int, padded: int, grid: int, targets: int
    ) -> "TokenLedger":
        """补上训练一段（训练前可填预计数），返回新的、已核对的账本。

        Args:
            epochs: 几遍。
            trained: 过了模型的词元，含特殊词元。
            padded: 填充的位置。
            grid: 各批量 B × T 之和。
            targets: 计损失的位置。

        Raises:
            CorpusError: 账不平。
        """
        ledger = replace(
            self,
            epochs=epochs,
            trained=trained,
            padded=padded,
            grid=grid,
            targets=targets,
        )
        ledger.check()
        return ledger

    def check(self) -> None:
        """核对各段。

        Raises:
            CorpusError: 有一段不平，或有负数。
        """
        lost = sum(self.dropped.values())
        _equal("语料词元", self.tokens_in, "放入 + 丢弃", self.placed + lost)
        _equal("行中词元", self.row_tokens, "放入 + 特殊", self.placed + self.special)
        _equal("批量的格子", self.grid, "过模型 + 填充", self.trained + self.padded)
        counts = [v for v in asdict(self).values() if isinstance(v, int | float)]
        if min([*counts, *self.dropped.values()]) < 0:
            raise _unbalanced("账上有负数")
        if self.targets > self.trained:
            raise _unbalanced(
                f"目标 {self.targets:,} 个，比过模型的词元 {self.trained:,} 个还多"
            )

    def as_dict(self) -> dict[str, Any]:
        """供 ledger.json 使用的字典，键即字段名。"""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """账表的各行：项目，以及数目与它占所在一段的份额。"""
        sections = [
            (self.tokens_in, "语料词元", self.tokens_in),
            (self.tokens_in, "　放入行中", self.placed),
            *((self.tokens_in, f"　丢弃：{why}", n) for why, n in self.dropped.items()),
            (self.tokens_in, "　其中 [UNK]", self.unknown),
            (self.row_tokens, "一遍的行中词元", self.row_tokens),
            (self.row_tokens, "　语料的", self.placed),
            (self.row_tokens, "　特殊词元", self.special),
        ]
        if self.grid:
            sections += [
                (self.grid, f"训练 {self.epochs:.3g} 遍的格子", self.grid),
                (self.grid, "　过了模型", self.trained),
                (self.grid, "　填充", self.padded),
            ]
        if self.targets:
            sections.append((self.grid, "　其中目标", self.targets))
        return [
            (label, f"{count:,}（{count / whole:.1%}）" if whole else f"{count:,}（—）")
            for whole, label, count in sections
        ]

    def __str__(self) -> str:
        """中文的账表，各项后注明占所在一段的份额。"""
        head = (
            f"语料 {self.documents:,} 篇、{self.characters:,} 字；"
            f"一遍 {self.num_rows:,} 行、{self.pieces:,} 片"
        )
        rows = self.rows()
        width = max(cell_len(amount) for _, amount in rows)
        return "\n".join([head, *(_line(*row, width) for row in rows)])


def ledger_of(
    dataset: BlockDataset, *, dropped: Mapping[str, int] | None = None
) -> TokenLedger:
    """由词元库与计划算出语料与一遍两段。

    Args:
        dataset: 打包好的数据集。
        dropped: 有意不放入行中的词元，原因到数目。

    Raises:
        CorpusError: 有词元既没放入也没说明为何丢弃，或放了两次。
    """
    store, pieces = dataset.store, dataset.plan.pieces
    begin = store.offsets[pieces[:, 0]] + pieces[:, 1]  # (P,) 在词元库中的起点
    size = pieces[:, 2] - pieces[:, 1]
    order = np.argsort(begin, kind="stable")
    if (begin[order][1:] < (begin + size)[order][:-1]).any():
        raise _unbalanced("有词元放进了两行")  # 数目凑巧相等也骗不过去
    placed, row_tokens = int(size.sum()), int(dataset.lengths.sum())
    ledger = TokenLedger(
        tokens_in=store.num_tokens,
        placed=placed,
        dropped=dict(dropped or {}),
        special=row_tokens - placed,
        row_tokens=row_tokens,
        documents=len(store),
        pieces=len(pieces),
        num_rows=len(dataset),
        characters=store.meta["num_characters"],
        dropped_characters=store.meta["num_dropped_characters"],
        unknown=store.meta["num_unk"],
    )
    ledger.check()
    return ledger


def _equal(left: str, value: int, right: str, total: int) -> None:
    if value != total:
        raise _unbalanced(f"{left} {value:,} 个，而{right} {total:,} 个")


def _unbalanced(found: str) -> CorpusError:
    return CorpusError(
        found=found,
        expected="每个词元都有去处：放入、丢弃（注明原因）或填充，恰好一次",
        remedy="由同一个词元库重新打包；有意丢弃的写进 dropped",
    )


def _line(label: str, amount: str, width: int) -> str:
    """一行账：项目靠左，数目靠右。"""
    gap = max(1, 24 - cell_len(label)) + width - cell_len(amount)
    return f"  {label}{' ' * gap}{amount}"
