"""GLM 的填补：文字里有几个空，从左到右逐个写出。

    狡兔死，走狗[MASK]；飞鸟尽，[sMASK]

三种空（Du 等，2022，§2.1）：[MASK] 缺几个词元，[sMASK] 缺一句，[gMASK] 缺一大段。空里写
多少由模型定，写出 [eop] 为止。读写的次序与位置见 `blank_writing`。
"""

import re
from typing import Any

from companion.checkpoints.running import position_limit, position_rows, special_edges
from companion.errors import ModelError, ObjectiveError
from companion.inference.blank_writing import write_blanks
from companion.inference.decoding import Decoding, Limits
from companion.inference.filling import MASK, split_at_masks
from companion.inference.gaps import Infilling, encode_pieces, fill_gaps
from companion.inference.running import require_causal
from companion.inference.writable import never_written
from companion.losses.target_head import inner_model
from companion.objectives.blanks import find_blank_tokens
from companion.preflight.mask_support import require_mask
from companion.preflight.probing import evaluation_mode

_BLANK = re.compile(r"(\[(?:MASK|sMASK|gMASK)\])(?:\1)*")
"""一个空；相连的几个同样的算一个。"""


def infill_blanks(checkpoint: Any, text: str, how: Decoding) -> Infilling:
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
    limit = position_limit(model)
    if limit is not None and len(part_a) > limit:
        raise ModelError(
            found=f"这段文字有 {len(part_a)} 个词元",
            expected=f"不超过 {checkpoint.name} 的位置上限 {limit}",
            remedy="分成几段，或换一个能读更长的模型",
        )
    if limit is not None and position_rows(model) == 2:
        # 第二行从 1 数起，[S] 也占一个
        how = how.at_most(limit - 2)
    banned = never_written(tokenizer, model.config.vocab_size)
    limits = Limits(frozenset([tokens.end]), banned, least=1)
    with evaluation_mode(model):
        found = write_blanks(model, part_a, places, how, limits, tokens.start)
    return fill_gaps(tokenizer, pieces, found)


def _between(text: str) -> list[tuple[int, int]]:
    """各个空之间的文字从哪里到哪里，比空多一段。"""
    spans = [match.span() for match in _BLANK.finditer(text)]
    starts = [0, *(stop for _, stop in spans)]
    return list(zip(starts, [*(start for start, _ in spans), len(text)], strict=True))
