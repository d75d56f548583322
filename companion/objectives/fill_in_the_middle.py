"""中间填补（FIM）：把中段挪到末尾，从左到右的模型就学会看着两边写中间。

    损失 = − Σ_{t > 1} log p(y_t | y_<t)，y 是挪过的一篇    （Bavarian 等，2022，§3）

一篇文字切成前、中、后三段，再照两种次序之一重排（各半）：

    原文      臣光曰 │ 才者德之资也 │ 德者才之帅也
    PSM      <PRE> 臣光曰 <SUF> 德者才之帅也 <MID> 才者德之资也 <EOT>
    SPM      <PRE> <SUF> 德者才之帅也 <MID> 臣光曰 才者德之资也 <EOT>

SPM 是附录 D 的第二种，<PRE> <SUF> 连写，两种次序分得清。只改写一部分文档，其余照因果语
言建模。三段与记号都计损失（同论文），每个字仍恰好预测一次。切点各自均匀，段可以是空的。

切点**逐字**取（§4.5），三段各自重新分词：光标停在词元的半中间，模型也见过。文字还原不了
（[UNK]、半个字）、拼不回去（每段开头添 ▁）的，逐词元切；评估也是，好与原来次序的相比。

各篇各自改写；长过一行的先切成片，一片改写一次（§4.4 说略好）。改写过的总有结尾，没有专
门的（CodeLlama 的 <EOT>）就是文档结尾。记号词表里没有的，打开检查点时添上。

形状字母：T 一篇正文的词元数，L 改写之后的长度。
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from companion.batch import IGNORE_INDEX, Feature
from companion.errors import ObjectiveError
from companion.objectives.causal_lm import causal_labels
from companion.objectives.collate import Collator, Example, make_example
from companion.objectives.rows import Document, Row, draw_below, require_probability

Ids = NDArray[np.int64]
Cells = NDArray[np.int64]
"""一串词元，(3, L)：编号；是原行的第几个，没有的为 −1；评估考不考。"""

NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ""),  # Qwen2.5、CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ""),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ""),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),  # CodeLlama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ""),  # DeepSeek
)
"""前段、后段、中段与结尾的记号，各家的写法；词表里一家也不全的，添第一种。"""

_ADDED, _SEAMS = 4, 4
"""改写添的三个记号与结尾；两个切口重新分词至多许多出几个词元，再多就逐词元切。"""


def find_middle_tokens(tokenizer: Any) -> tuple[int, int, int, int]:
    """前段、后段、中段与结尾的记号；没有专门的结尾就是文档结尾，再没有是 −1。

    Raises:
        ObjectiveError: 哪一家的都不全。
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for *marks, end in NAMES:
        if all(name in vocabulary for name in marks):
            stop = vocabulary.get(end, tokenizer.eos_token_id)
            pre, suf, mid = (vocabulary[name] for name in marks)
            return pre, suf, mid, -1 if stop is None else stop
    raise ObjectiveError(
        found=f"分词器 {type(tokenizer).__name__} 没有中间填补的记号",
        expected="例如 " + "、".join(NAMES[0][:3]),
        remedy="用 load_checkpoint(名字, 'fill_in_the_middle') 打开，缺的记号会添上",
    )


def missing_tokens(tokenizer: Any) -> dict[str, list[str]]:
    """词表缺的记号，`add_special_tokens` 的写法；不缺是空的。"""
    known = tokenizer.get_vocab().keys()
    found = any(known >= set(names[:3]) for names in NAMES)
    return {} if found else {"extra_special_tokens": list(NAMES[0][:3])}


@dataclass
class FillInTheMiddleCollator(Collator):
    """中间填补的数据整理器；输入与输出同 `CausalLMCollator`。

    Raises:
        ObjectiveError: 分词器没有记号，或概率越界。
    """

    fim_rate: float = 0.5
    """一篇改写的概率（Bavarian 等，2022，§4.2：0.9 以下都不伤从左到右）。"""
    spm_rate: float = 0.5
    """改写的里面用 SPM 的概率（Bavarian 等，2022，§4.3：两种一起练）。"""
    character_level: bool = True
    """能逐字切就逐字切；假则总是逐词元。"""
    seed: int = 0

    causal: ClassVar[bool] = True
    added_tokens: ClassVar[int] = _ADDED + _SEAMS

    def __post_init__(self) -> None:
        super().__post_init__()
        require_probability("fim_rate", self.fim_rate)
        require_probability("spm_rate", self.spm_rate)
        *marks, self.end = find_middle_tokens(self.tokenizer)
        self.marks = [_cells([number]) for number in marks]
        self.reserved_ids = np.array(sorted(marks), np.int64)

    def row_capacity(self, block_size: int, num_edges: int) -> int:
        """一行给一篇的记号与切口留出位置；`num_edges` 不用。"""
        return block_size - _ADDED - self.character_level * _SEAMS

    def example(self, row: Row) -> Example:
        """逐篇改写或照旧；标签照抄，各篇的首个词元除外。"""
        return _joined([self._rewritten(row, each) for each in row.documents])

    def hide(self, feature: Feature, noise: NDArray[np.bool_]) -> Example:
        """只有一篇的样本，遮住的一段（`noise`，与正文等长）作中段，PSM；填空题用。"""
        row = self.read(feature)
        [document] = row.documents
        first, last = np.flatnonzero(noise)[[0, -1]].tolist()
        pieces = _cut(row.body(document), [first, last + 1])
        return _joined([self._arranged(row, document, pieces, spm=False)])

    def _rewritten(self, row: Row, document: Document) -> Cells:
        rng = row.rng(self.seed, document.number)
        if rng.random() >= self.fim_rate or not document.length:
            places = np.arange(document.start, document.stop)
            return _cells(row.input_ids[places], places, 1)
        spm = rng.random() < self.spm_rate
        body = row.body(document)
        pieces = self._cut_text(body, rng) or _cut(body, _draw_cuts(len(body), rng))
        return self._arranged(row, document, pieces, spm=spm)

    def _cut_text(self, body: Ids, rng: np.random.Generator) -> list[Cells] | None:
        """逐字切成三段，各自重新分词；不要或不能的为 None。"""
        lost = np.isin(body, self.special_ids).any()
        if lost or not (self.character_level and self.tokenizer.is_fast):
            return None
        decode = partial(self.tokenizer.decode, clean_up_tokenization_spaces=False)
        text: str = decode(body.tolist())
        known = self._encoded(text)
        if [number for number, _, _ in known] != body.tolist():
            return None
        place = {each: at for at, each in enumerate(known)}
        pieces: list[Cells] = []
        for left, right in pairwise([0, *_draw_cuts(len(text), rng), len(text)]):
            found = self._encoded(text[left:right], left)
            origin = [place.get(each, -1) for each in found]
            pieces.append(_cells([number for number, _, _ in found], origin))
        whole = np.concatenate(pieces, 1)[0].tolist()
        fits = len(whole) <= len(body) + _SEAMS and decode(whole) == text
        return pieces if fits else None

    def _encoded(self, text: str, first: int = 0) -> list[tuple[int, int, int]]:
        """各词元的编号与在全文的起止；`text` 从全文的第 `first` 个字起。"""
        options = {"add_special_tokens": False, "return_offsets_mapping": True}
        found = self.tokenizer(text, **options)
        spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [(number, a + first, b + first) for number, (a, b) in spans]

    def _arranged(
        self, row: Row, document: Document, pieces: list[Cells], *, spm: bool
    ) -> Cells:
        """三段重排，添上记号，套上原来的首尾；`pieces` 的出处从正文的首个词元数起。"""
        for each in pieces:
            each[1] += np.where(each[1] < 0, 0, document.left)
        before, middle, after = pieces
        middle[2] = 1
        pre, suf, mid = self.marks
        edges = [(document.start, document.left), (document.right, document.stop)]
        head, tail = (_cells(row.input_ids[a:b], np.arange(a, b)) for a, b in edges)
        moved = [suf, after, mid, before] if spm else [before, suf, after, mid]
        if self.end >= 0 and self.end not in tail[0]:
            tail = np.concatenate([_cells([self.end]), tail], 1)
        return np.concatenate([head, pre, *moved, middle, tail], 1)


def _draw_cuts(length: int, rng: np.random.Generator) -> list[int]:
    return sorted(draw_below(length + 1, rng) for _ in range(2))


def _cells(ids: Any, origin: Any = -1, scored: int = 0) -> Cells:
    return np.stack(np.broadcast_arrays(ids, origin, scored)).astype(np.int64)


def _cut(body: Ids, cuts: list[int]) -> list[Cells]:
    edges = pairwise([0, *cuts, len(body)])
    return [_cells(body[a:b], np.arange(a, b)) for a, b in edges]


def _joined(documents: list[Cells]) -> Example:
    sizes = [each.shape[1] for each in documents]
    ids, origin, scored = np.concatenate(documents, 1)
    labels = causal_labels(ids, np.cumsum([0, *sizes[:-1]]).tolist())
    return make_example(
        ids,
        labels,
        origin=origin,
        hidden=(scored > 0) & (origin >= 0) & (labels != IGNORE_INDEX),
        documents=np.repeat(np.arange(len(sizes)), sizes),
    )
