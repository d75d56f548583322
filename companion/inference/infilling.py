"""填补：写出文中缺去的几段，还回完整的文字。

    智伯请[MASK]于韩康子  →  智伯请地于韩康子

一处 `[MASK]` 缺一段，长短不限，由模型自己决定写到哪里为止；相连的几个算一处。

T5 一类给每处一个哨兵，只写缺的；原来的 T5 写完末一处，还会再写一个哨兵：

    编码器  智伯请<extra_id_0>于韩康子</s>
    解码器  <extra_id_0>地<extra_id_1></s>

BART 一类把全文重写一遍。重写难免走样，所以看得见的文字逐个词元照抄给解码器，只有缺的地
方让它写：写到下一个词元恰是后文的第一个，这一处就完了。Pegasus 只写缺的那几句，一次只能
有一处。

FIM 的模型（`fill_in_the_middle`）从左到右地读两边，再写中间，一次只能有一处：

    <PRE> 智伯请 <SUF> 于韩康子 <MID>  →  地 <EOT>

掩码扩散的模型一步步揭开（`unmasking`），一个 [MASK] 恰好一个词元，几处都行。

GLM 从左到右逐个写空。空有三种（Du 等，2022，§2.1）：[MASK] 缺几个词元，[sMASK] 缺一句，
[gMASK] 缺一大段；写出 [eop] 为止。读写的次序与位置见 `writers.BlankWriter`。
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any

import torch

from companion.checkpoints.running import (
    evaluation_mode,
    fitted_objective,
    inner_model,
    is_causal,
    over_limit,
    position_limit,
    position_rows,
    read_setting,
    special_edges,
    text_config,
)
from companion.errors import ModelError, ObjectiveError
from companion.inference.completion import as_completion, write_after
from companion.inference.decoding import Decoding, Limits, Written, decode
from companion.inference.reading import (
    MASK,
    encode_pieces,
    never_written,
    require_causal,
    require_seq2seq,
    sentinels,
    split_at_masks,
    stop_ids,
    without_added_spaces,
)
from companion.inference.unmasking import unmask
from companion.inference.writers import EncodedWriter, write_blanks
from companion.objectives import Objective
from companion.objectives.blank_infilling import START_NAMES, find_blank_tokens
from companion.objectives.fill_in_the_middle import (
    find_middle_tokens,
    missing_tokens,
)
from companion.preflight.visibility import require_mask

_MASKS = re.compile(r"(?:\[MASK\])+")
_BLANK = re.compile(r"(\[(?:MASK|sMASK|gMASK)\])(?:\1)*")
"""一个空；相连的几个同样的算一个。"""


@dataclass(frozen=True)
class Infilling:
    """填补的结果。"""

    text: str
    """填好的全文；看得见的文字原样不动。"""
    fills: list[str]
    """每处写了什么，按出现的次序。"""
    finished: list[bool]
    """每处是自己写完的（真），还是到了 `max_new_tokens` 被截断的（假）。"""


def infill(
    checkpoint: Any,
    text: str,
    max_new_tokens: int = 40,
    *,
    objective: str | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_beams: int = 1,
    seed: int = 0,
) -> Infilling:
    """写出每处 [MASK] 缺的文字，缺省每步取最可能的词元。

    Args:
        checkpoint: 编码器–解码器（T5、mT5、BART、Pegasus），或只有解码器的模型：用
            blank_infilling（GLM）或 fill_in_the_middle 训练过的；或用
            masked_diffusion 训练过的。
        text: 含一处或几处 [MASK]（T5 也可写 `<extra_id_0>` …，GLM 还有缺一句的 [sMASK]
            与缺一大段的 [gMASK]）的文字。
        max_new_tokens: 每处至多写多少词元；掩码扩散不用它，一个 [MASK] 一个词元。
        objective: 它是怎样训练的；缺省由架构定，只有解码器的看分词器有哪一种记号。
        do_sample: 按概率抽取，而不是每步取最大的。
        temperature: 抽取的温度。
        top_p: 抽取时只在概率之和刚够 `top_p` 的词元里选。
        num_beams: 大于 1 就是束搜索。
        seed: 抽取的随机种子。

    Raises:
        ModelError: 模型不会填补，分词器既没有掩码也没有够用的哨兵，或文字太长。
        ObjectiveError: 文字里没有缺处，或分词器缺 GLM 的词元。
        ConfigError: 参数越界或互相矛盾。
    """
    how = Decoding(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        temperature=temperature,
        top_p=top_p,
        num_beams=num_beams,
        seed=seed,
    )
    goal = None if objective is None else fitted_objective(checkpoint.model, objective)
    way = _way_of(checkpoint) if goal is None else goal.infilling
    if goal is not None and way == "unmask":
        return _infill_masks(checkpoint, goal, text, how)
    if way == "blank":
        return _infill_blanks(checkpoint, text, how)
    if way == "middle":
        return _infill_middle(checkpoint, text, how)
    require_seq2seq(checkpoint)
    tokenizer = checkpoint.tokenizer
    pieces = _pieces(text, tokenizer)
    task = _make_task(checkpoint, pieces)
    limit = position_limit(checkpoint.model)
    room = None
    if limit is not None:
        room = limit - 1 - sum(map(len, task.forced))  # 第一个输入也占一个位置
        if len(task.source) > limit or room < len(pieces) - 1:
            raise ModelError(
                found=f"这段文字有 {len(task.source)} 个词元",
                expected=f"连同填上的，不超过模型的位置上限 {limit}",
                remedy="分成几段，或换一个能读更长的模型",
            )
    written = _write_gaps(checkpoint, task, how, room)
    return fill_gaps(tokenizer, pieces, written)


def _way_of(checkpoint: Any) -> str | None:
    """只有解码器的，看分词器有哪一种记号：GLM 的片段开头（[sop]），或 FIM 的。"""
    model = inner_model(checkpoint.model)
    if model.config.is_encoder_decoder or not is_causal(model):
        return None
    if not set(checkpoint.tokenizer.get_vocab()).isdisjoint(START_NAMES):
        return "blank"
    return None if missing_tokens(checkpoint.tokenizer) else "middle"


def _infill_masks(
    checkpoint: Any, goal: Objective, text: str, how: Decoding
) -> Infilling:
    """一步步揭开各个 [MASK]，一个一个词元。

    Raises:
        ModelError: 模型与目标不合，或文字太长。
        ObjectiveError: 没有缺处。
    """
    tokenizer, edges = checkpoint.tokenizer, special_edges(checkpoint.tokenizer)
    pieces = _pieces(text, tokenizer)
    marks = _MASKS.finditer(_marked(text, tokenizer))
    counts = [len(match[0]) // len(MASK) for match in marks]
    first, *others = encode_pieces(tokenizer, pieces)
    gaps = [[tokenizer.mask_token_id] * count for count in counts]
    parts = [[*gap, *body] for gap, body in zip(gaps, others, strict=True)]
    ids = [*edges.prefix, *first, *itertools.chain(*parts), *edges.suffix]
    [written] = unmask(checkpoint, goal, ids, how)
    stops = itertools.accumulate(counts)
    found = [
        Written(written[stop - count : stop], True)
        for count, stop in zip(counts, stops, strict=True)
    ]
    return fill_gaps(tokenizer, pieces, found)


def _infill_middle(checkpoint: Any, text: str, how: Decoding) -> Infilling:
    """看着两边写中间的一段。

    Raises:
        ModelError: 不是因果语言模型，不止一处，或文字太长。
        ObjectiveError: 没有缺处，或分词器没有记号。
    """
    require_causal(checkpoint)
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    pieces = _pieces(text, tokenizer)
    _refuse_more_gaps(checkpoint, len(pieces) - 1, 1)
    pre, suf, mid, end = find_middle_tokens(tokenizer)
    before, after = encode_pieces(tokenizer, pieces)
    head = [*special_edges(tokenizer).prefix, pre, *before, suf, *after, mid]
    if (limit := over_limit(model, len(head) + 1)) is not None:
        raise ModelError(
            found=f"这段文字有 {len(head)} 个词元",
            expected=f"少于 {checkpoint.name} 的位置上限 {limit}，才有地方写",
            remedy="截短两边的文字",
        )
    banned = never_written(tokenizer, text_config(model).vocab_size)
    [written] = write_after(
        checkpoint,
        head,
        how,
        sorted({*stop_ids(model, tokenizer), end} - {-1}),
        banned=banned.nonzero()[:, 0].tolist(),
        least=1,
    )
    found = as_completion(tokenizer, pieces[0], before, written.ids, written.finished)
    return Infilling(found.text + pieces[1], [found.new_text], [written.finished])


@dataclass(frozen=True)
class _Task:
    """交给模型的一份填补。"""

    source: list[int]
    """编码器的输入。"""
    forced: list[list[int]]
    """各处之前（与最后一处之后）照抄给解码器的词元，比缺处多一段。"""
    stops: set[int]
    """写到其中之一，这一处就完了；后文的第一个词元另算。"""


def _make_task(checkpoint: Any, pieces: list[str]) -> _Task:
    """缺处用什么标，解码器照抄什么，由模型预训练时的样子定。

    Raises:
        ModelError: 分词器里没有可用来标缺处的词元，或不够用。
    """
    tokenizer, gaps = checkpoint.tokenizer, len(pieces) - 1
    prefix, suffix = map(list, special_edges(tokenizer))
    bodies = encode_pieces(tokenizer, pieces)

    def source(marks: list[int]) -> list[int]:
        parts = [[mark, *body] for mark, body in zip(marks, bodies[1:], strict=True)]
        return [*prefix, *bodies[0], *itertools.chain(*parts), *suffix]

    ends = _end_ids(inner_model(checkpoint.model).config)
    marks_of_gaps, mask = sentinels(tokenizer), tokenizer.mask_token_id
    relative = position_limit(checkpoint.model) is None  # T5 一族
    if marks_of_gaps and (relative or mask is None):
        _refuse_more_gaps(checkpoint, gaps, len(marks_of_gaps))
        forced = [[mark] for mark in marks_of_gaps[:gaps]]
        stops = ends | set(marks_of_gaps)
        return _Task(source(marks_of_gaps[:gaps]), [*forced, suffix], stops)
    sentence = tokenizer.get_vocab().get("<mask_1>")
    if sentence is not None:
        _refuse_more_gaps(checkpoint, gaps, 1)
        return _Task(source([sentence]), [[], suffix], ends)
    if mask is not None:
        forced = [[*prefix, *bodies[0]], *bodies[1:]]
        forced[-1] = [*forced[-1], *suffix]
        return _Task(source([mask] * gaps), forced, ends)
    raise ModelError(
        found=f"{checkpoint.name} 的分词器既没有掩码词元，也没有哨兵词元",
        expected="有 mask_token（BART 的是 <mask>）或 <extra_id_0>（T5）",
        remedy="换一个编码器–解码器（例如 starter:bart）",
    )


@torch.no_grad()
def _write_gaps(
    checkpoint: Any, task: _Task, how: Decoding, room: int | None
) -> list[Written]:
    """逐处写：先照抄 `forced[i]`，再写第 i 处，写到后文的开头为止。

    Args:
        checkpoint: 编码器–解码器的检查点。
        task: 写什么。
        how: 怎样选词元；每处至多写 `max_new_tokens` 个。
        room: 各处合计至多多少词元；没有位置上限时为 None。
    """
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    banned = never_written(tokenizer, text_config(model).vocab_size)
    decoder = [model.config.decoder_start_token_id]
    found: list[Written] = []
    with evaluation_mode(model):
        for before, after in itertools.pairwise(task.forced):
            decoder += before
            # 一处至少写一个词元：缺了才会挖
            limits = Limits(frozenset(task.stops | set(after[:1])), banned, least=1)
            left = None if room is None else room - sum(len(each.ids) for each in found)
            if left == 0:
                best = Written([], False)
            else:
                here = how if left is None else how.at_most(left)
                writer = EncodedWriter(model, task.source, decoder)
                [best, *_] = decode(writer, here, limits)
            found.append(best)
            decoder += best.ids
    return found


def _marked(text: str, tokenizer: Any) -> str:
    """各种写法的缺处都写成 [MASK]。"""
    text = re.sub(r"<extra_id_\d+>|<mask_1>", MASK, text)
    return MASK.join(split_at_masks(text, tokenizer))


def _pieces(text: str, tokenizer: Any) -> list[str]:
    """在各缺处断开；相连的几个掩码算一处。"""
    pieces = _marked(text, tokenizer).split(MASK)
    joined = [pieces[0]]
    for number, piece in enumerate(pieces[1:], 1):
        if piece or number == len(pieces) - 1:
            joined.append(piece)
    if len(joined) < 2:
        raise ObjectiveError(
            found="文字里没有缺处",
            expected=f"用 {MASK} 标出缺的地方",
            remedy=f"例如 智伯请{MASK}于韩康子，康子欲弗与。",
        )
    return joined


def _end_ids(config: Any) -> set[int]:
    """结尾词元；有的检查点写了几个，有的一个也没写。"""
    end = read_setting(config, "eos_token_id")
    if end is None:
        return set()
    return {end} if isinstance(end, int) else set(end)


def _refuse_more_gaps(checkpoint: Any, gaps: int, most: int) -> None:
    if gaps > most:
        raise ModelError(
            found=f"文字里缺 {gaps} 处，{checkpoint.name} 一次至多写 {most} 处",
            expected=f"至多 {most} 处 {MASK}",
            remedy="分成几段来填",
        )


def fill_gaps(tokenizer: Any, pieces: list[str], written: list[Written]) -> Infilling:
    """把写出的放回缺处；`pieces` 是看得见的各段，比缺处多一段。"""
    fills = [
        without_added_spaces(
            tokenizer, tokenizer.decode(each.ids, clean_up_tokenization_spaces=False)
        ).strip()
        for each in written
    ]
    whole = pieces[0] + "".join(
        fill + piece for fill, piece in zip(fills, pieces[1:], strict=True)
    )
    return Infilling(whole, fills, [each.finished for each in written])


def _infill_blanks(checkpoint: Any, text: str, how: Decoding) -> Infilling:
    """写出每个空缺的文字，看得见的原样不动。

    Args:
        checkpoint: 只有解码器的检查点，用 blank_infilling 训练过。
        text: 含 [MASK]、[sMASK]、[gMASK] 的文字。
        how: 怎样选词元；每处至多写 `max_new_tokens` 个。

    Raises:
        ModelError: 不是只有解码器的模型，不收前缀掩码，或文字太长。
        ObjectiveError: 文字里没有空，或分词器缺写空的词元。
    """
    require_causal(checkpoint)
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    text = MASK.join(split_at_masks(text, tokenizer))
    blanks = [match[1] for match in _BLANK.finditer(text)]
    pieces = [text[a:b] for a, b in _between(text)]
    if not blanks:
        raise ObjectiveError(
            found="文字里没有空",
            expected="用 [MASK]、[sMASK] 或 [gMASK] 标出缺的地方",
            remedy=f"例如 智伯请{MASK}于韩康子，康子欲弗与。",
        )
    tokens = find_blank_tokens(
        tokenizer, sentences="[sMASK]" in blanks, documents="[gMASK]" in blanks
    )
    require_mask(model, "prefix")
    ids = {
        "[MASK]": tokens.mask,
        "[sMASK]": tokens.sentence_mask,
        "[gMASK]": tokens.document_mask,
    }
    edges = special_edges(tokenizer)
    first, *others = encode_pieces(tokenizer, pieces)
    part_a = [*edges.prefix, *first]
    places: list[int] = []
    for blank, body in zip(blanks, others, strict=True):
        places.append(len(part_a))
        part_a += [ids[blank], *body]
    part_a += edges.suffix
    if (limit := over_limit(model, len(part_a))) is not None:
        raise ModelError(
            found=f"这段文字有 {len(part_a)} 个词元",
            expected=f"不超过 {checkpoint.name} 的位置上限 {limit}",
            remedy="分成几段，或换一个能读更长的模型",
        )
    limit = position_limit(model)
    if limit is not None and position_rows(model) == 2:
        # 第二行从 1 数起，[S] 也占一个
        how = how.at_most(limit - 2)
    banned = never_written(tokenizer, text_config(model).vocab_size)
    limits = Limits(frozenset([tokens.end]), banned, least=1)
    with evaluation_mode(model):
        found = write_blanks(model, part_a, places, how, limits, tokens.start)
    return fill_gaps(tokenizer, pieces, found)


def _between(text: str) -> list[tuple[int, int]]:
    """各个空之间的文字从哪里到哪里，比空多一段。"""
    spans = [match.span() for match in _BLANK.finditer(text)]
    starts = [0, *(stop for _, stop in spans)]
    return list(zip(starts, [*(start for start, _ in spans), len(text)], strict=True))
