"""冻结的目标：考哪些词元，在看到任何模型之前就定下来。

训练前后、这个检查点与那个检查点，只有评估同样的目标，分数才能相减。目标只由（文字、分词器、
目标、种子、行长）决定，与模型的权重、批量大小、进程数无关：

- 去噪的各个目标：由训练的整理器以论文的缺省设置破坏，种子与轮次固定，考模型**看不见**的
  词元；照抄看得见的、写对哨兵，都不算本事。`masked_lm` 选中的 15% **全部**换成 [MASK]
  （不用 80/10/10：随机替换和原样保留是训练时的手段，评估时只会添噪声）。
- `masked_diffusion`：每片遮四次，每次恰好 l 个，l 在 1 与可遮的个数 L 之间摊匀，损失乘
  L/l，摊在可遮的全部字上，四次取平均；各次的 l 与遮的位置由种子定。
- `prefix_lm`：切在哪里由种子定，考前缀之后的每个词元。语料是句对时，前缀就是源侧。
- `replaced_token`：考判别器，每个普通词元都判真假。假的从同一行别处抽来；不由生成器造，
  它随训练而变。总答“原文”的准确率是 1 − 换掉的比例。
- `fill_in_the_middle`：每片都挪过，考中段的每个词元。同样的词元照原来的次序、只看左边，
  也考一遍（`TargetRow.unmoved`），差多少就是看得见右边的好处；中段就在片首、左边一个词元
  也没有的，两边都不考它。
- `causal_lm`：文档首个词元之后的每个词元。比一行长的文档用滑动窗口，步长半个窗口，每个
  词元只考一次；除第一个窗口外，前面至少有半个窗口的上文，只作上文的位置标签是 −100。

不考的有两种。**[UNK]**：词表外的字都变成同一个 [UNK]，猜中它很容易，却什么也没猜中，
模型丢的字越多，分数反而越好看；所以它从不是目标，它占的字数另报为 UNK 率。**文档结尾**
（EOS）：它不写出任何字，摊不到“每字”里去。

形状字母：T 一行的词元数，K 一行的标签数。
"""

import hashlib
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from companion.batch import IGNORE_INDEX, LOSS_WEIGHTS, Batch
from companion.checkpoints.running import DEFAULT_BLOCK_SIZE, row_edges, special_edges
from companion.corpus.document import Document
from companion.corpus.packing import BlockDataset, plan_packing
from companion.corpus.pairing import PairForm, pair_rows, readable_sides
from companion.corpus.tokenization import unknown_id
from companion.corpus.tokens import TokenStore, tokenize_documents
from companion.errors import EvaluationError
from companion.objectives import Objective, get_objective
from companion.objectives.collate import Example

Documents = Iterable[Document] | Callable[[], Iterable[Document]]
"""文档的列表；大语料给一个无参数的函数，每次调用从头产出文档。"""


_LONGEST_TOKEN = 16
"""词表里的词元很少写得出这么多字。"""
_MOST_HEAPED = 0.1


class TargetRow(NamedTuple):
    """一行评估目标；K 为标签的长度。"""

    example: Example
    """模型看到的，标签是全部的（解码器照它移位）。"""
    labels: Tensor
    """要考的词元，(K,) int64；别处为 −100。"""
    num_chars: Tensor
    """每个标签所占的字数，(K,) int64。"""
    starts: Tensor
    """每个标签在文档里从第几个字起，(K,) int64（分词器丢掉的空白不算）。"""
    document: int
    """出自第几个文档。"""
    left: Tensor
    """每个标签在原文里左边的两个词元，由远到近，(K, 2) int64；行内没有的为 −1。"""
    unmoved: Example | None = None
    """同样的目标照原来的次序读，标签只有要考的；挪过次序的目标（FIM）才有。"""
    weight: float = 1.0
    """这一行的损失乘以它：遮住的要代表可遮的全部（掩码扩散的 L/l）。"""
    whole: tuple[int, int] | None = None
    """损失摊在多少字、多少词元上；None 是被考的那些。"""

    @property
    def input_ids(self) -> Tensor:
        """(L,) int64。"""
        return self.example.input_ids

    @property
    def size(self) -> tuple[int, int]:
        """损失摊在多少字、多少词元上。"""
        at = self.labels != IGNORE_INDEX
        return self.whole or (int(self.num_chars[at].sum()), int(at.sum()))


@dataclass(frozen=True)
class FrozenTargets:
    """一份冻结的评估目标。"""

    objective: str
    rows: list[TargetRow]
    num_chars: int
    """被考的字数；由一部分推算全部的（掩码扩散），是全部的。"""
    num_targets: int
    """被考的词元数。"""
    unk_rate: float
    """[UNK] 占全部字数的比例，在 0 与 1 之间。"""
    fingerprint: str
    """由每一行的输入与标签定出；相同就可以逐行相减。"""
    coverage: str
    """由被考的字在原文中的位置定出；分词器不同而考的字相同时，它相同。"""
    text_fingerprint: str
    """由文字定出。"""
    collate: Callable[[list[Example]], Batch]
    """把几行补齐成批量；由出题的整理器给出。"""
    draws: int = 1
    """连着几行是同一片的几次噪声，成绩取平均。"""
    sources: tuple[str, ...] = ()
    """每一行出自哪一份语料；只有一份的为空。"""


def build_targets(
    tokenizer: Any,
    objective: str | Objective,
    documents: Documents,
    *,
    seed: int = 0,
    block_size: int = DEFAULT_BLOCK_SIZE,
    max_chars: int | None = None,
    cache_dir: str | Path | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> FrozenTargets:
    """定下一份评估目标；同样的参数总是同一份。

    Args:
        tokenizer: transformers 的分词器。
        objective: 训练目标或它的键。
        documents: 留出集；句对怎样用看目标（`Objective.pairs`），多数只用 `text` 一侧。
        seed: 选哪些词元由它定（只用于掩码）。
        block_size: 一行至多多少词元，含特殊词元。
        max_chars: 至多考这么多字的文字；按文档内容的散列排序后取够为止，因此与文档的
            次序无关，也不会只取开头一章。
        cache_dir: 分词的缓存；缺省用完即删。
        model_options: 只有模型知道的参数
            （`companion.checkpoints.running.model_options`），
            编码器–解码器要有。

    Raises:
        EvaluationError: 一个可考的词元也没有；词元对不回原文，数不出字。
        CorpusError: 语料没有文字，或 `block_size` 太小。
    """
    goal = get_objective(objective) if isinstance(objective, str) else objective
    collator = goal.make_exam_collator(
        tokenizer,
        **({"seed": seed} if "seed" in goal.options else {}),
        **(model_options or {}),
    )
    if max_chars is not None:
        documents = sample_documents(documents, max_chars)
    elif isinstance(documents, Iterator):
        documents = list(documents)
    source: Any = documents
    form: PairForm | None = None
    if goal.pairs is not None:
        documents = list(documents() if callable(documents) else documents)
        source, form = readable_sides(
            documents, goal.pairs, required=goal.pairs_required, objective=goal.key
        )
    with temporary_folder(cache_dir) as folder:
        store = tokenize_documents(source, tokenizer, cache_dir=folder)
        _require_counted(store, tokenizer)
        make_rows = causal_rows if goal.windowed else denoising_rows
        rows = [
            row
            for row in make_rows(store, tokenizer, goal, collator, block_size, form)
            if (row.labels != IGNORE_INDEX).any()
        ]
        unk_rate = _unk_rate(store, tokenizer)
    if not rows:
        raise EvaluationError(
            found="留出集里没有一个可考的词元",
            expected="至少一个文档，掩码目标不少于 1 个、因果目标不少于 2 个词元，"
            "且不全是 [UNK]",
            remedy="换一份留出集，或换一个认得这些字的分词器",
        )
    chosen = [row.labels != IGNORE_INDEX for row in rows]
    return FrozenTargets(
        objective=goal.key,
        rows=rows,
        num_chars=sum(row.size[0] for row in rows) // goal.exam_draws,
        num_targets=sum(int(at.sum()) for at in chosen),
        unk_rate=unk_rate,
        fingerprint=_digest(
            array for row in rows for array in (row.input_ids, row.labels)
        ),
        coverage=_digest(
            _positions(row, at) for row, at in zip(rows, chosen, strict=True)
        ),
        text_fingerprint=_text_digest(documents),
        collate=collator.collate,
        draws=goal.exam_draws,
    )


def _require_counted(store: TokenStore, tokenizer: Any) -> None:
    """字各记在写出它的词元上；对不回原文的分词器，每字比特数算不得。

    没有偏移、写法又与原文全然不同的词元对不回去，一整段的字就都记在首个词元上。
    """
    chars, known = np.asarray(store.num_chars), np.asarray(store.ids)
    heaped = (chars > _LONGEST_TOKEN) & (known != unknown_id(tokenizer))
    lost = int(chars[heaped].sum(dtype=np.int64))
    total = store.meta["num_characters"]
    if lost > _MOST_HEAPED * total:
        raise EvaluationError(
            found=f"{type(tokenizer).__name__} 的词元对不回原文：{total:,} 个字里有 "
            f"{lost:,} 个堆在几个词元上",
            expected="每个字记在写出它的词元上，每字比特数才算得准",
            remedy="换一个有 tokenizer.json（快速分词器）的检查点",
        )


def merged_targets(parts: Mapping[str, FrozenTargets]) -> FrozenTargets:
    """几份语料的评估目标合成一份，各行照比例相间，因此靠前的一部分也各份都有。

    Args:
        parts: 语料的名字 → 它的评估目标；同一个分词器、同一个目标。
    """
    rows: list[tuple[float, str, TargetRow]] = []
    first = 0
    for name, part in parts.items():
        draws = part.draws  # 同一片的几行不分开
        rows += [
            (
                (at // draws + 0.5) / (len(part.rows) // draws),
                name,
                row._replace(document=row.document + first),
            )
            for at, row in enumerate(part.rows)
        ]
        first += 1 + max(row.document for row in part.rows)
    rows.sort(key=lambda each: each[0])
    every = list(parts.values())
    num_chars = sum(each.num_chars for each in every)
    return FrozenTargets(
        objective=every[0].objective,
        rows=[row for _, _, row in rows],
        num_chars=num_chars,
        num_targets=sum(each.num_targets for each in every),
        unk_rate=sum(each.unk_rate * each.num_chars for each in every) / num_chars,
        fingerprint=_joined(each.fingerprint for each in every),
        coverage=_joined(each.coverage for each in every),
        text_fingerprint=_joined(each.text_fingerprint for each in every),
        collate=every[0].collate,
        draws=every[0].draws,
        sources=tuple(name for _, name, _ in rows),
    )


def _joined(fingerprints: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


def sample_documents(documents: Documents, max_chars: int) -> list[Document]:
    """取够 `max_chars` 个字：按内容的散列排序，末一篇截短（句对不截）。

    Raises:
        EvaluationError: `max_chars` 不是正数。
    """
    if max_chars < 1:
        raise EvaluationError(
            found=f"max_chars = {max_chars}",
            expected="正整数",
            remedy="去掉 max_chars 用全部文字，或改成例如 20000",
        )
    every = documents() if callable(documents) else documents
    ordered = sorted(every, key=lambda each: hashlib.sha256(_bytes(each)).digest())
    chosen: list[Document] = []
    left = max_chars
    for document in ordered:
        if left <= 0:
            break
        if document.target is None:  # 句对截短了，译文就不再是译文
            document = replace(document, text=document.text[:left])
        chosen.append(document)
        left -= document.num_chars
    return chosen


def denoising_rows(
    store: TokenStore,
    tokenizer: Any,
    goal: Objective,
    collator: Any,
    block_size: int,
    form: PairForm | None = None,
) -> Iterator[TargetRow]:
    """一片（或一个句对）一行，由整理器破坏，考看不见的词元；同一份文字总是遮同样的位置。"""
    edges, _ = row_edges(tokenizer, goal)
    num_edges = len(edges.prefix) + len(edges.suffix)
    capacity = goal.row_capacity(collator, block_size, num_edges)
    if form is None:
        plan = plan_packing(
            store.lengths, capacity, pack=False, overhead_per_piece=num_edges
        )
        dataset = BlockDataset(
            store, plan, prefix_ids=edges.prefix, suffix_ids=edges.suffix
        )
    else:
        dataset = pair_rows(store, form, edges, (), capacity).rows
    unk = unknown_id(tokenizer)
    for number, feature in _drawn(dataset, goal.exam_draws):
        [example] = collator.examples([{**feature, "epoch": 0}])
        origin = example.origin.clamp(min=0)
        edge = torch.from_numpy(feature["special_tokens_mask"])[origin]
        ids = torch.from_numpy(feature["input_ids"])
        words = ids[origin]
        scored = example.hidden & (words != unk) & (example.origin >= 0)
        scored &= ~edge.bool()  # 前缀语言模型连末尾的 [SEP] 也预测，它不是字
        if goal.left_to_right:  # 照原来的次序，片首的没有上文
            scored &= example.origin > 0
        piece = dataset.plan[number][0]
        chars = torch.from_numpy(feature["num_chars"])
        first = _characters_before(store, piece.document, piece.start)
        starts = first + chars.cumsum(0) - chars
        yield TargetRow(
            example,
            example.labels.masked_fill(~scored, IGNORE_INDEX),
            chars[origin].masked_fill(example.origin < 0, 0),
            starts[origin],
            piece.document,
            left_of(ids, feature["special_tokens_mask"])[origin],
            _unmoved(ids, origin[scored]) if goal.left_to_right else None,
            *_shares(example, chars),
        )


def _drawn(dataset: Iterable[Any], draws: int) -> Iterator[tuple[int, Any]]:
    """行号与样本，一片连着 `draws` 次，编号各不相同，噪声也就不同。"""
    for number, feature in enumerate(dataset):
        for draw in range(draws):
            yield number, {**feature, "example_id": number * draws + draw}


def _shares(example: Example, chars: Tensor) -> tuple[float, tuple[int, int] | None]:
    """`TargetRow` 的 `weight` 与 `whole`；`chars` 是一行各词元的字数，(L,)。"""
    weights = example.extra.get(LOSS_WEIGHTS)
    if weights is None:
        return 1.0, None
    maskable = weights > 0
    whole = int(chars[maskable].sum()), int(maskable.sum())
    return float(weights.max()), whole


def _unmoved(ids: Tensor, chosen: Tensor) -> Example:
    """原来的次序，只考 `chosen` 这几个。"""
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[chosen] = ids[chosen]
    return Example(
        input_ids=ids,
        labels=labels,
        origin=torch.arange(len(ids)),
        hidden=labels != IGNORE_INDEX,
        documents=torch.zeros_like(ids),
    )


def causal_rows(
    store: TokenStore,
    tokenizer: Any,
    goal: Objective,
    collator: Any,
    block_size: int,
    form: PairForm | None = None,
) -> Iterator[TargetRow]:
    """滑动窗口：文档首个词元之后的每个词元恰好考一次。

    Raises:
        EvaluationError: 一个窗口里放不下两个词元。
    """
    del goal, form
    prefix = torch.tensor(special_edges(tokenizer).prefix, dtype=torch.int64)
    window = block_size - len(prefix)
    if window < 2:
        raise EvaluationError(
            found=f"block_size 为 {block_size}，特殊词元要占 {len(prefix)} 个",
            expected="一个窗口除特殊词元外至少容得下 2 个词元",
            remedy="调大 block_size（常用 128 到 2048）",
        )
    for document, length in enumerate(store.lengths.tolist()):
        base = int(store.offsets[document])
        for start, scored, stop in windows(length, window):
            span = slice(base + start, base + stop)
            ids = torch.from_numpy(store.ids[span].astype(np.int64))
            labels = ids.masked_fill(ids == unknown_id(tokenizer), IGNORE_INDEX)
            labels[: scored - start] = IGNORE_INDEX
            chars = torch.from_numpy(store.num_chars[span].astype(np.int64))
            chars = torch.cat([torch.zeros_like(prefix), chars])
            whole = torch.cat([prefix, ids])
            [example] = collator.examples([{"input_ids": whole}])
            yield TargetRow(
                example,
                torch.cat([torch.full_like(prefix, IGNORE_INDEX), labels]),
                chars,
                _characters_before(store, document, start) + chars.cumsum(0) - chars,
                document,
                left_of(whole, torch.arange(len(whole)) < len(prefix)),
            )


def left_of(ids: Tensor, edges: Any) -> Tensor:
    """每个词元左边的两个，由远到近，(T, 2) int64；没有的、特殊词元处为 −1。

    Args:
        ids: 原文的一行，(T,) int64。
        edges: 特殊词元处为真，(T,) bool。

    >>> left_of(torch.tensor([2, 7, 8]), [True, False, False]).tolist()
    [[-1, -1], [-1, -1], [-1, 7]]
    """
    bare = ids.masked_fill(torch.as_tensor(edges).bool(), -1)
    padded = torch.cat([bare.new_full((2,), -1), bare])
    return torch.stack([padded[:-2], padded[1:-1]], dim=1)


def windows(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    """滑动窗口 (起点, 从哪里起考, 终点)；首个词元没有上文，不考。

    >>> list(windows(10, 6))
    [(0, 1, 6), (3, 6, 9), (6, 9, 10)]
    """
    stride = window // 2
    start, scored = 0, 1
    while scored < length:
        stop = min(start + window, length)
        yield start, scored, stop
        start, scored = start + stride, stop


def _characters_before(store: TokenStore, document: int, start: int) -> int:
    base = int(store.offsets[document])
    return int(store.num_chars[base : base + start].sum(dtype=np.int64))


def _unk_rate(store: TokenStore, tokenizer: Any) -> float:
    chars = np.asarray(store.num_chars)
    unknown = np.asarray(store.ids) == unknown_id(tokenizer)
    return int(chars[unknown].sum(dtype=np.int64)) / max(1, int(chars.sum()))


def _positions(row: TargetRow, chosen: Tensor) -> Tensor:
    """被考的各词元所占的字在原文中的位置与字数，(3, N) int64。"""
    kept = chosen & (row.num_chars > 0)
    documents = torch.full_like(row.starts, row.document)
    return torch.stack([documents[kept], row.starts[kept], row.num_chars[kept]])


def _digest(arrays: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        data: NDArray[np.int64] = array.numpy()
        digest.update(data.shape[-1].to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(data, "<i8").tobytes())
    return digest.hexdigest()


def _text_digest(documents: Documents) -> str:
    digest = hashlib.sha256()
    for document in documents() if callable(documents) else documents:
        data = _bytes(document)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _bytes(document: Document) -> bytes:
    return document.text.encode("utf-8", "surrogatepass")


@contextmanager
def temporary_folder(cache_dir: str | Path | None) -> Generator[Path]:
    """给了就用它；没有给就用一个临时的，用完即删。"""
    if cache_dir is not None:
        yield Path(cache_dir)
        return
    # Windows 不许删除仍在映射的文件；留在系统临时文件夹里，系统会清理
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)
