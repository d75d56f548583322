"""断句探针：编码器不动，只在隐藏状态上学一个线性分类器，问每个字后面该不该断开。

去掉标点的文言，一字一元地喂给编码器；答案就是原文的标点，不要人标注。编码器练的是哪个目标都
考得了，哪个目标也没有照这道题练过，所以拿来比不同的训练目标。文档分成两半，一半学，一半考。

形状字母：T 字数，D 隐藏层宽度乘层数。
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MARKS = frozenset("，。；：！？、")
"""断开处的标点。"""
QUOTES = frozenset("“”‘’《》（）〈〉")
"""去掉，也不算断开。"""
ROW = 126
"""一行多少字，两头另加 [CLS]、[SEP]。"""
_ROWS, _ITERATIONS, _DECAY = 32, 60, 1e-4


@dataclass(frozen=True)
class Piece:
    """一行没有标点的文字。"""

    text: str
    breaks: tuple[bool, ...]
    """每个字后面断不断，与 `text` 等长。"""


def pieces_of(texts: Iterable[str], max_chars: int) -> list[Piece]:
    """去掉标点、切成行，共 `max_chars` 字上下。

    >>> pieces_of(["王曰：“善。”乃行"], 9)
    [Piece(text='王曰善乃行', breaks=(False, True, True, False, False))]
    """
    found: list[Piece] = []
    left = max_chars
    for text in texts:
        chars, breaks = [], []
        for char in "".join(text.split()):
            if char in MARKS and breaks:
                breaks[-1] = True
            elif char not in MARKS | QUOTES:
                chars.append(char)
                breaks.append(False)
        for at in range(0, len(chars), ROW):
            if left <= 0:
                return found
            piece = Piece("".join(chars[at : at + ROW]), tuple(breaks[at : at + ROW]))
            found.append(piece)
            left -= len(piece.text)
    return found


@torch.no_grad()
def hidden_states(encoder: Any, tokenizer: Any, pieces: list[Piece]) -> list[Tensor]:
    """各层的隐藏状态，一层一个 (T, D)；首尾的特殊词元不在内。"""
    edges = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [
        [edges[0], *tokenizer.convert_tokens_to_ids(list(piece.text)), edges[1]]
        for piece in pieces
    ]
    batches: list[list[Tensor]] = []
    for at in range(0, len(rows), _ROWS):
        part = [torch.tensor(row) for row in rows[at : at + _ROWS]]
        ids = torch.nn.utils.rnn.pad_sequence(
            part, batch_first=True, padding_value=tokenizer.pad_token_id
        )
        places = torch.arange(ids.shape[1])
        sizes = torch.tensor([len(row) for row in part])[:, None]
        layers = encoder(
            input_ids=ids,
            attention_mask=(places < sizes).long(),
            output_hidden_states=True,
        ).hidden_states[1:]
        inside = (places > 0) & (places < sizes - 1)
        batches.append([layer[inside] for layer in layers])
    return [torch.cat(layer) for layer in zip(*batches, strict=True)]


def probe_score(
    learn: Tensor, learn_breaks: Tensor, ask: Tensor, ask_breaks: Tensor
) -> dict[str, float]:
    """在一半上学一个逻辑回归，在另一半上考。

    Args:
        learn: (T, D)。
        learn_breaks: (T,) bool。
        ask: (另一半的 T, D)。
        ask_breaks: (另一半的 T,) bool。

    Returns:
        断开处的 F1，与每字的交叉熵（比特）。
    """
    mean, std = learn.mean(0), learn.std(0) + 1e-6
    learn, ask = (learn - mean) / std, (ask - mean) / std
    weight = torch.zeros(learn.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )
    target = learn_breaks.float()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(learn @ weight + bias, target)
        loss = loss + _DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    logits = (ask @ weight + bias).detach()
    said = logits > 0
    hit = float((said & ask_breaks).sum())
    nats = F.binary_cross_entropy_with_logits(logits, ask_breaks.float())
    return {
        "f1": round(2 * hit / max(1.0, float(said.sum() + ask_breaks.sum())), 4),
        "bits": round(float(nats) / math.log(2), 4),
    }


def probe(
    encoder: Any, tokenizer: Any, learn: list[Piece], ask: list[Piece]
) -> dict[str, float]:
    """只看末层，与各层接在一起，各考一次。"""
    breaks = [
        torch.tensor([each for piece in half for each in piece.breaks])
        for half in (learn, ask)
    ]
    states = [hidden_states(encoder, tokenizer, half) for half in (learn, ask)]
    found: dict[str, float] = {}
    for name, chosen in (("last", slice(-1, None)), ("all", slice(None))):
        mine, theirs = (torch.cat(layers[chosen], dim=1) for layers in states)
        score = probe_score(mine, breaks[0], theirs, breaks[1])
        found |= {f"{key}_{name}": value for key, value in score.items()}
    return found
