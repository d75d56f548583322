"""语料 → 可训练的行：读、去重、划出留出集、分词、打包、记账。"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.checkpoints.running import (
    Edges,
    default_block_size,
    inner_model,
    model_options,
    over_limit,
    row_edges,
)
from companion.config import TrainingConfig
from companion.corpus.document import Document
from companion.corpus.documents import (
    Documents,
    chained,
    open_corpus,
    open_dataset,
    split_corpus,
)
from companion.corpus.mixing import Source, parse_sources, shares_of
from companion.corpus.packing import (
    BlockDataset,
    TokenLedger,
    combined,
    ledger_of,
    plan_packing,
)
from companion.corpus.pairing import pair_rows, readable_sides
from companion.corpus.sources import resolve
from companion.corpus.tokenization import registered_tokens
from companion.corpus.tokens import TokenStore, tokenize_documents
from companion.errors import ConfigError, CorpusError
from companion.objectives import OBJECTIVES, Objective
from companion.preflight.visibility import neighbours
from companion.training.batching import (
    BatchPlan,
    JoinedRows,
    Share,
    StagedRows,
    plan_batches,
)
from companion.training.masking import Masking, read_masking


@dataclass(frozen=True)
class SourceTexts:
    """领域语料里的一份。"""

    source: Source
    train: Sequence[Document]
    valid: Sequence[Document]
    """它自己的留出集；另给了 `valid` 时为空。"""


@dataclass(frozen=True)
class Corpora:
    """读进来的四份文本。"""

    train: Sequence[Document]
    """领域语料，几份的依次相接。"""
    valid: Sequence[Document]
    general: Sequence[Document]
    replay: Sequence[Document]
    duplicates: int
    """训练语料里因完全重复而删去的文档数。"""
    notices: Sequence[str] = ()
    """读的时候跳过了什么。"""
    sources: Sequence[SourceTexts] = ()
    """领域语料的各份；只有一份的可以不写。"""

    @property
    def parts(self) -> Sequence[SourceTexts]:
        """领域语料的各份，至少一份。"""
        alone = SourceTexts(Source("语料", "语料"), self.train, self.valid)
        return self.sources or (alone,)

    @property
    def held_out(self) -> "Sequence[Document] | dict[str, Sequence[Document]]":
        """领域留出集；几份语料各有留出集的，按名字分开。"""
        if len(self.sources) < 2 or not self.sources[0].valid:
            return self.valid
        return {each.source.name: each.valid for each in self.sources}


@dataclass(frozen=True)
class TrainingData:
    """排定的训练数据。"""

    rows: JoinedRows
    plan: BatchPlan
    ledger: TokenLedger
    block_size: int
    packed: bool
    collator: Any
    """训练目标的整理器。"""
    shares: tuple[Share, ...] = ()
    """各份语料的行与比例，回放在最后。"""
    registered: Mapping[str, int] = field(default_factory=dict[str, int])
    """领域语料里整个编码的登记过的特殊词元 → 次数（`registered_tokens`）。"""


def read_corpora(config: TrainingConfig, corpus: Any = None) -> Corpora:
    """按设置读文本；没有留出集时用语料自带的，再没有就按文档划出 5%。

    文本都在磁盘上（`companion.corpus.documents`），不论多大都不占内存。

    Args:
        config: 训练设置。
        corpus: datasets.Dataset，代替 `config.corpus`。

    Raises:
        CorpusError: 某份语料读不了，或只有一篇、划不出留出集。
    """
    sources = _sources(config)

    def opened(source: Any, split: str | None = "train") -> Documents:
        by_name = isinstance(source, str)
        found = open_corpus(source, split) if by_name else open_dataset(source)
        return found.joined() if config.line_breaks == "join" else found

    given = [opened(each.spec if corpus is None else corpus) for each in sources]
    every = chained(given)
    documents = every.without_duplicates() if config.deduplicate else every
    if len(given) == 1:
        parts = [documents]
    else:
        parts = documents.divided([len(each.table) for each in given])
    texts: list[SourceTexts] = []
    for source, part in zip(sources, parts, strict=True):
        if not part:
            raise CorpusError(
                found=f"语料 {source.name} 一篇也没有（重复的已经删去）",
                expected="每一份都有文字",
                remedy="看看它是不是空的，或与另一份相同；不要它就去掉",
            )
        if config.valid is not None:
            texts.append(SourceTexts(source, part, ()))
        elif corpus is None and resolve(source.spec).has_valid:  # 有名字的自带留出集
            texts.append(SourceTexts(source, part, opened(source.spec, "valid")))
        else:
            split = split_corpus(part)
            texts.append(SourceTexts(source, split.train, split.valid))
    names = [config.valid, config.general, config.replay]
    names += [each.spec for each in sources] if corpus is None else []
    return Corpora(
        train=_one_after_another([each.train for each in texts]),
        valid=_one_after_another([each.valid for each in texts])
        if config.valid is None
        else opened(config.valid, None),
        general=[] if config.general is None else opened(config.general, None),
        replay=[] if config.replay is None else opened(config.replay),
        duplicates=len(every) - len(documents),
        notices=[
            each for name in names if name is not None for each in resolve(name).notices
        ],
        sources=texts,
    )


def _sources(config: TrainingConfig) -> tuple[Source, ...]:
    if isinstance(config.corpus, str):
        return (Source(config.corpus, config.corpus),)
    return parse_sources(config.corpus)


def _one_after_another(parts: Sequence[Sequence[Document]]) -> Sequence[Document]:
    """几份文字接起来；都在磁盘上的，接好的也在磁盘上。"""
    if len(parts) == 1:
        return parts[0]
    stored = [each for each in parts if isinstance(each, Documents)]
    if len(stored) < len(parts):
        return [document for part in parts for document in part]
    return chained(stored)


def choose_block_size(config: TrainingConfig, model: Any) -> int:
    """一行的长度：用户给的，或缺省的（不超过一个微批量）。

    Raises:
        ConfigError: 用户给的超过模型的位置上限。
    """
    if config.block_size is None:
        return min(config.tokens_per_batch, default_block_size(model))
    if (limit := over_limit(model, config.block_size)) is not None:
        raise ConfigError(
            found=f"block_size {config.block_size} 超过模型的位置上限 {limit}",
            expected=f"block_size 不大于 {limit}",
            remedy=f"用 --set block_size={limit}，或换一个能读更长的模型",
        )
    return config.block_size


def choose_masking(config: TrainingConfig, objective: Objective) -> Masking:
    """本目标的设置里明说了的几项；词典在这里读，坏的早早报错。

    Raises:
        ConfigError: 设了别的目标的选项。
        ObjectiveError, CorpusError: 选法与别的设置相左，或词典有问题。
    """
    refuse_others(config, objective)
    given = {name: getattr(config, name) for name in objective.options}
    given = {name: value for name, value in given.items() if value is not None}
    return read_masking(given) if "preset" in objective.options else Masking(given)


def refuse_others(config: TrainingConfig, objective: Objective) -> None:
    """设了别的目标的选项就拒绝：它在这里毫无作用。

    Raises:
        ConfigError: 有一项改了缺省值，而不属于这个目标。
    """
    owners: dict[str, list[str]] = {}
    for goal in OBJECTIVES.values():
        for each in goal.forms:
            for name in (*each.options, *each.training_options):
                keys = owners.setdefault(name, [])
                keys += [] if goal.key in keys else [goal.key]
    owners.pop("seed", None)  # 打乱与随机失活也用它，哪个目标都有
    for setting in fields(config):
        value, keys = getattr(config, setting.name), owners.get(setting.name)
        if keys and objective.key not in keys and value != setting.default:
            raise ConfigError(
                found=f"{setting.name} = {value}，而训练目标是 {objective.key}",
                expected=f"{setting.name} 只用于 {'、'.join(keys)}",
                remedy=f"去掉 {setting.name}，或改用 --objective {keys[0]}",
            )


def make_collator(
    config: TrainingConfig,
    objective: Objective,
    model: Any,
    tokenizer: Any,
    documents: Sequence[Document] = (),
) -> Any:
    """按设置与模型配好的整理器；没有设的参数取论文的缺省值。

    Args:
        config: 训练设置。
        objective: 训练目标。
        model: 模型。
        tokenizer: 它的分词器。
        documents: 训练语料；只有 preset=macbert 用，在其中找近义词。

    Raises:
        ObjectiveError: 分词器与目标不合。
        ModelError: 模型的设置里缺了目标要的一项。
    """
    masking = choose_masking(config, objective)
    return objective.make_collator(
        tokenizer,
        **masking.collator_options(
            tokenizer, model, (document.text for document in documents)
        ),
        **model_options(model, objective),
        **({"mark_attended": True} if config.teacher else {}),
    )


def prepare_data(
    config: TrainingConfig,
    corpora: Corpora,
    objective: Objective,
    model: Any,
    tokenizer: Any,
    *,
    packed: bool,
    cache_dir: Path,
    world_size: int = 1,
) -> TrainingData:
    """分词、打包、排批、记账，全部在第一步之前完成。"""
    block_size = choose_block_size(config, model)
    segmenters = choose_masking(config, objective).segmenters
    sources = [each.train for each in corpora.parts]
    num_domain = len(sources)
    sources += [corpora.replay] if corpora.replay else []
    collator = make_collator(config, objective, model, tokenizer, corpora.train)
    edges, ends = row_edges(tokenizer, objective)
    capacity = objective.row_capacity(
        collator, block_size, len(edges.prefix) + len(edges.suffix)
    )
    prepared = [
        readable_sides(
            source,
            objective.pairs,
            required=objective.pairs_required,
            objective=objective.key,
        )
        for source in sources
    ]
    dropped: list[dict[str, int]] = []
    stages: list[JoinedRows] = []
    for segmenter in segmenters:  # ERNIE 的三个阶段，词元相同，词界不同
        datasets: list[BlockDataset] = []
        for texts, form in prepared:
            store = tokenize_documents(
                texts, tokenizer, cache_dir=cache_dir, segmenter=segmenter
            )
            _require_unreserved(texts, store, collator, tokenizer)
            if form is None:
                lengths, short = _long_enough(store, objective)
                rows_here = _block_dataset(
                    store, lengths, edges, ends, capacity, packed
                )
            else:
                pairs = pair_rows(store, form, edges, ends, capacity)
                rows_here, short = pairs.rows, pairs.dropped
            dropped.append(short)
            datasets.append(rows_here)
        stages.append(JoinedRows(datasets))
    rows = stages[0]
    domain = rows.datasets[:num_domain]
    if objective.needs_sentences:
        for dataset in domain:
            _require_sentences(dataset, collator, objective)
    shares = _shares(config, corpora, rows, num_domain)
    together = neighbours(inner_model(model))
    plan = plan_batches(
        rows.lengths,
        tokens_per_batch=1 if together == "none" else config.tokens_per_batch,
        same_length=together == "same_length",
        accumulation=config.gradient_accumulation_steps * world_size,
        seed=config.seed,
        max_steps=config.max_steps,
        num_epochs=config.num_train_epochs,
        shares=shares,
    )
    accounts = zip(domain, dropped[:num_domain], strict=True)
    ledger = combined([ledger_of(each, dropped=lost) for each, lost in accounts])
    if added := getattr(collator, "added_tokens", 0):
        pieces = np.concatenate([np.diff(each.plan.rows) for each in rows.datasets])
        visits = [row for batch in plan.batches for _, row in batch]
        ledger = replace(ledger, inserted=added * int(pieces[visits].sum()))
    ledger = with_plan(ledger, plan)
    if len(stages) > 1:
        rows = StagedRows(stages, plan)
    registered = _count_registered([each.store for each in domain], tokenizer)
    return TrainingData(
        rows, plan, ledger, block_size, packed, collator, shares, registered
    )


def _shares(
    config: TrainingConfig, corpora: Corpora, rows: JoinedRows, num_domain: int
) -> tuple[Share, ...]:
    """各份语料的行，与照权重或温度占的比例；回放占 `replay_ratio`。"""
    borders = rows.firsts.tolist()
    spans = list(pairwise(borders))
    sizes = [int(rows.lengths[low:high].sum()) for low, high in spans]
    names = [each.source.name for each in corpora.parts]
    for name, size in zip(names, sizes, strict=False):
        if not size:
            raise CorpusError(
                found=f"语料 {name} 没有一行可以训练",
                expected="每一份都有够长的文字",
                remedy="去掉它，或把短文并成长文",
            )
    own = shares_of(
        [each.source for each in corpora.parts],
        sizes[:num_domain],
        config.mixture_temperature,
    )
    replayed = config.replay_ratio if len(sizes) > num_domain else 0.0
    amounts = [share * (1 - replayed) for share in own]
    amounts += [replayed] if replayed else []
    return tuple(
        Share(low, high, amount, is_replay=number >= num_domain)
        for number, ((low, high), amount) in enumerate(zip(spans, amounts, strict=True))
    )


def with_plan(ledger: TokenLedger, plan: BatchPlan) -> TokenLedger:
    """账本补上训练的一段，照排定的批次。"""
    return ledger.with_training(
        epochs=plan.epochs,
        trained=plan.tokens,
        padded=plan.grid - plan.tokens,
        grid=plan.grid,
        targets=0,
    )


def _count_registered(stores: Iterable[TokenStore], tokenizer: Any) -> dict[str, int]:
    """登记过的特殊词元在正文里各出现几次；没有出现的不列。"""
    names = registered_tokens(tokenizer)
    if not names:
        return {}
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, np.int64)
    for store in stores:
        for _, ids in store.blocks():
            counts += np.bincount(ids, minlength=len(counts))
    numbers = zip(names, tokenizer.convert_tokens_to_ids(names), strict=True)
    return {name: int(counts[n]) for name, n in numbers if counts[n]}


def _require_unreserved(
    documents: Sequence[Document], store: TokenStore, collator: Any, tokenizer: Any
) -> None:
    """原文里没有目标要用的掩码、哨兵；开训之前就查完，不等轮到那一行。"""
    reserved = getattr(collator, "reserved_ids", ())
    for first, ids in store.blocks() if len(reserved) else ():
        already = np.isin(ids, reserved)
        if already.any():
            at = first + int(np.argmax(already))
            number = int(np.searchsorted(store.offsets, at, side="right")) - 1
            word = tokenizer.convert_ids_to_tokens(int(ids[at - first]))
            raise CorpusError(
                found=f"{documents[number].id} 的正文里已有 {word}"
                f"（第 {at - int(store.offsets[number]) + 1} 个词元）",
                expected=f"正文里没有 {word}，否则分不清它是不是后来换上的",
                remedy=f"从原文删去 {word} 字样",
            )


def _require_sentences(
    dataset: BlockDataset, collator: Any, objective: Objective
) -> None:
    """至少有一篇不止一句；只有一句的训练时学不到东西，账本里记着。"""
    if not any(map(collator.has_sentences, dataset)):
        raise CorpusError(
            found=f"语料 {len(dataset)} 行，没有一篇有两句",
            expected=f"{objective.key} 的一篇至少两句，{objective.needs_sentences}",
            remedy="把连续的句子合成一个文档（空行才是文档的分界），或改用别的训练目标"
            "（编码器用 masked_lm，T5 用 span_corruption，BART 用 text_infilling）",
        )


def _long_enough(
    store: TokenStore, objective: Objective
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """各篇的词元数，太短而出不了题的当作没有；与它们的账：原因 → 词元数。

    Raises:
        CorpusError: 没有一篇出得了题。
    """
    least = objective.least_tokens
    short = store.lengths < least
    if short.all():
        raise CorpusError(
            found=f"语料 {len(store):,} 篇，篇篇不足 {least} 个词元",
            expected=f"{objective.key} 的一篇至少 {least} 个词元，才有得遮、有得看",
            remedy="把连续的文字合成一篇（空行才是文档的分界）",
        )
    lost = int(store.lengths[short].sum())
    reason = f"一篇不足 {least} 个词元"
    return np.where(short, 0, store.lengths), {reason: lost} if lost else {}


def _block_dataset(
    store: TokenStore,
    lengths: NDArray[np.int64],
    edges: Edges,
    ends: tuple[int, ...],
    capacity: int,
    packed: bool,
) -> BlockDataset:
    plan = plan_packing(
        lengths,
        capacity,
        pack=packed,
        overhead_per_piece=len(edges.prefix) + len(edges.suffix),
        overhead_per_document=len(ends),
    )
    return BlockDataset(
        store,
        plan,
        prefix_ids=edges.prefix,
        suffix_ids=edges.suffix,
        document_end_ids=ends,
    )
