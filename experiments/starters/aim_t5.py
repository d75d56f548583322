"""`starter:t5` 的起点，与只练编码器的一段。"""

from functools import partial
from typing import Any

import torch
from transformers import BertForMaskedLM, T5ForConditionalGeneration

from companion.checkpoints.locating import starter_path
from starters.vocabulary import EXTRA, SPECIAL, log_frequency

NAMES = slice(1, 33)
"""T5 的词嵌入里写哨兵名字的几维，宽如一个注意力头。"""


@torch.no_grad()
def aim_t5(model: T5ForConditionalGeneration) -> None:
    """T5 也会停在只会猜字频的平台上；几处起点让它走得出去。

    - 相对位置偏置：编码器的各头偏向 ±1、±2、±3，解码器的偏向左边 1 到 3 个，同 BERT 的
      道理，只是 T5 的偏置就是距离的表，直接填。
    - 词嵌入抄自 `starter:bert`（同一份词表），标准差取 0.03；各层的输出缩到 0.02 倍，残
      差流里仍以词嵌入为主。T5 原来的标准差是 1：输入与输出共用词嵌入，一开始总猜输入的
      那个字，而 Adam 每步只动千分之二，久久改不过来（原用的 Adafactor 的步长与参数的大
      小成比例）。
    - 字频：T5 没有一处偏置，字频只能写进残差流的一个固定方向；让它自己去找，编码器会塌
      成那个方向，不再随输入而变。这里把第 0 维给它：字字都有一份常数，另加对数频率。
    - 哨兵的名字：编码器在哨兵处学会猜字，也就忘了自己是几号哨兵，解码器认不出来，于是
      从不看编码器。这里留出 `NAMES` 几维写各个哨兵的名字，编码器的各层起初不写这几维；
      解码器读到 <extra_id_3>，交叉注意力凭名字看向编码器里的 <extra_id_3>，那里猜的字
      照样传过来。输出头看不见名字。
    """
    for stack, offsets in (
        (model.encoder, (-1, 1, -2, 2, -3, 3)),
        (model.decoder, (0, -1, -2, -3, -1, -2)),
    ):
        attention = stack.block[0].layer[0].SelfAttention
        table = attention.relative_attention_bias.weight  # (桶, 头)
        table.zero_()
        for head, offset in enumerate(offsets):
            bucket = attention._relative_position_bucket(
                torch.tensor([[offset]]),
                bidirectional=not stack.is_decoder,
                num_buckets=table.shape[0],
            )
            table[bucket.item(), head] = 4.0
    for name, parameter in model.named_parameters():
        if name.endswith((".o.weight", ".wo.weight")):
            parameter.mul_(0.02)
            if name.startswith("encoder"):
                parameter[NAMES] = 0
    bert = BertForMaskedLM.from_pretrained(starter_path("bert")).float()
    words = bert.get_input_embeddings().weight
    words = words - words.mean(0)
    words = words / words.std(0).clamp(min=1e-3)
    sentinels = slice(len(SPECIAL), len(SPECIAL) + len(EXTRA))  # BERT 没有学过它们
    words[sentinels] = torch.randn(len(EXTRA), words.shape[1])
    words = 0.03 * words
    frequency = log_frequency(len(words))
    words[:, 0] = 0.6 + 0.08 * (frequency - frequency.mean())
    width = NAMES.stop - NAMES.start
    words[:, NAMES] = 0
    words[sentinels, NAMES] = 0.1 * torch.randn(len(EXTRA), width).sign()
    model.shared.weight.copy_(words)
    model.decoder.final_layer_norm.weight.fill_(15.0)
    model.decoder.final_layer_norm.weight[NAMES] = 0
    eye = torch.eye(width)
    reading = model.decoder.block[0].layer[0].SelfAttention
    for head, gain in ((1, 0.05), (2, 0.025), (3, 0.012)):  # 左边几个里的名字
        block = slice(head * width, (head + 1) * width)
        reading.v.weight[block] = 0
        reading.v.weight[block, NAMES] = eye
        reading.o.weight[:, block] = 0
        reading.o.weight[NAMES, block] = gain * eye
    for block in model.decoder.block:
        cross = block.layer[1].EncDecAttention
        cross.v.weight.copy_(torch.eye(words.shape[1]))
        cross.o.weight.copy_(0.3 * torch.eye(words.shape[1]))
        for matrix in (cross.q.weight, cross.k.weight):
            matrix.zero_()
            for head in range(cross.n_heads):
                matrix[head * width : (head + 1) * width, NAMES] = 1.5 * eye


def keep_names(model: T5ForConditionalGeneration) -> list[Any]:
    """只练编码器的时候，名字不改：各层不写这几维，词嵌入的这几维不动。"""

    def without_names(gradient: torch.Tensor, *, rows: bool) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[(NAMES,) if rows else (slice(None), NAMES)] = 0
        return gradient

    written = [
        parameter
        for name, parameter in model.encoder.named_parameters()
        if name.endswith((".o.weight", ".wo.weight"))
    ]
    hooks = [p.register_hook(partial(without_names, rows=True)) for p in written]
    table = model.shared.weight
    return [*hooks, table.register_hook(partial(without_names, rows=False))]


def read_first(
    model: T5ForConditionalGeneration, batch: dict[str, Any]
) -> tuple[dict[str, Any], torch.Tensor]:
    """编码器在哨兵处就该猜到这一段的第一个字；返回换上编码结果的批量与平均损失。"""
    rest = dict(batch)
    inputs, labels = rest.pop("input_ids"), rest["labels"]
    encoded = model.encoder(input_ids=inputs, attention_mask=rest["attention_mask"])
    first = len(SPECIAL) + EXTRA.index("<extra_id_0>")
    asked = (inputs >= first) & (inputs < first + 100)
    heads = (labels >= first) & (labels < first + 100)
    answers = labels[heads.roll(1, dims=1)]  # 输入与目标里的哨兵次序相同
    hidden = model.decoder.final_layer_norm(encoded.last_hidden_state[asked])
    logits = model.lm_head(hidden * model.config.d_model**-0.5)
    rest["encoder_outputs"] = encoded
    return rest, torch.nn.functional.cross_entropy(logits, answers)
