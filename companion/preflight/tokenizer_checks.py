"""体检之分词器：特殊词元齐不齐、合不合，词表认不认得语料里的字。"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from companion.checkpoints.running import word_table
from companion.corpus.tokenization import text_ids, token_spans, unknown_id
from companion.errors import CompanionError
from companion.preflight.findings import Finding, Subject

_UNKNOWN_SERIOUS, _UNKNOWN_FATAL = 0.01, 0.3
_TOKENS_PER_CHAR_HIGH = 1.8
_SHOWN = 8


def check_needed_tokens(subject: Subject) -> Finding:
    """目标要的特殊词元（掩码、哨兵、解码器的第一个输入）齐不齐，够不够。"""
    trial = subject.trial
    if isinstance(trial, CompanionError):
        return Finding.of("needed_tokens", trial)
    return Finding("ok", "needed_tokens", "目标所需的特殊词元齐备")


def check_pad_token(subject: Subject) -> Finding:
    """填充词元缺不缺，与结尾是不是同一个。"""
    pad, eos = subject.tokenizer.pad_token_id, subject.tokenizer.eos_token_id
    if pad is None:
        return Finding(
            "notice",
            "pad_token",
            "没有填充词元",
            "GPT-2 一族训练时从不填充",
            "本程序用 0 填充，由掩码与标签的位置盖住，不必改；用别的工具时另设一个",
        )
    frozen = getattr(subject.model.get_input_embeddings(), "padding_idx", None)
    if frozen is not None and frozen != pad:
        word = subject.tokenizer.convert_ids_to_tokens(frozen)
        return Finding(
            "warning",
            "pad_token",
            f"分词器的填充是 {pad} 号，模型当作填充的却是 {frozen} 号（{word}）",
            "config.json 的 pad_token_id 与分词器不合；那一行词嵌入得不到梯度",
            f"在 config.json 写 pad_token_id: {pad}",
        )
    if pad == eos:
        return Finding(
            "notice",
            "pad_token",
            f"填充与结尾是同一个词元（{subject.tokenizer.eos_token}）",
            "按编号遮标签的整理器会把真正的结尾一起遮掉，模型学不会停",
            "本程序按位置遮标签，不受影响；换用库的整理器前另设填充词元",
        )
    return Finding("ok", "pad_token", f"填充词元 {subject.tokenizer.pad_token}")


def check_padding_side(subject: Subject) -> Finding:
    """填充补在哪一侧：位置从行首数起的模型，左侧补不得。"""
    side = subject.tokenizer.padding_side
    if side != "left" or subject.goal.auto_class == "AutoModelForCausalLM":
        where = "右" if side == "right" else "左"
        return Finding("ok", "padding_side", f"填充补在{where}侧")
    return Finding(
        "notice",
        "padding_side",
        "分词器把填充补在左侧",
        "位置从行首数起，左侧的填充会把真词元推到后面；续写的解码器才该补在左侧",
        "本程序总补在右侧，不必改；用别的工具前写 padding_side: right",
    )


def check_mask_token(subject: Subject) -> Finding:
    """掩码词元是不是自成一个词元，与别的特殊词元不重。"""
    tokenizer = subject.tokenizer
    mask = tokenizer.mask_token_id
    if mask is None or subject.goal.causal:
        return Finding("ok", "mask_token", "没有掩码词元，或本目标用不着")
    others = {
        name: getattr(tokenizer, f"{name}_token_id")
        for name in ("unk", "pad", "cls", "sep", "bos", "eos")
    }
    same = [name for name, number in others.items() if number == mask]
    if same:
        return Finding(
            "error",
            "mask_token",
            f"掩码词元 {tokenizer.mask_token} 与 {same[0]}_token 是同一个编号 {mask}",
            "词表里没有这个掩码词元，或 tokenizer_config.json 写错",
            "换回预训练时的分词器文件",
        )
    read = tokenizer(tokenizer.mask_token, add_special_tokens=False)["input_ids"]
    if mask not in read or len(read) > 2:  # SentencePiece 会在前面多一个 ▁
        return Finding(
            "warning",
            "mask_token",
            f"文字里的 {tokenizer.mask_token} 切成了 {len(read)} 个词元",
            "词表里有它，却没有登记为特殊词元",
            "在 tokenizer_config.json 的 added_tokens_decoder 里登记为 special",
        )
    return Finding("ok", "mask_token", f"掩码词元 {tokenizer.mask_token}")


def check_sentinels(subject: Subject) -> Finding:
    """哨兵从 0 号起一个不缺，编号一路升或一路降。"""
    trial = subject.trial
    if isinstance(trial, CompanionError) or not hasattr(trial.collator, "sentinel_ids"):
        return Finding("ok", "sentinels", "本目标用不着哨兵，或见上面的特殊词元")
    ids = [int(each) for each in trial.collator.sentinel_ids]
    first = subject.tokenizer.convert_ids_to_tokens(ids[0])
    head, tail = first.rsplit("0", 1)
    named = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail))
    words: dict[str, int] = subject.tokenizer.get_vocab()
    numbers = [int(found[1]) for word in words if (found := named.fullmatch(word))]
    beyond = sum(number > len(ids) for number in numbers)
    if beyond:
        return Finding(
            "warning",
            "sentinels",
            f"没有 {head}{len(ids)}{tail}，它后面的 {beyond} 个哨兵用不上",
            "哨兵按号使用，缺了一个就断在那里；多半是删过词表或手工添的",
            "换回预训练时的分词器文件",
        )
    falls = [later < earlier for earlier, later in pairwise(ids)]
    if any(falls) and not all(falls):
        at = next(i for i, each in enumerate(falls) if each != falls[0])
        return Finding(
            "warning",
            "sentinels",
            f"哨兵的编号乱了序：{head}{at}{tail} 起，{ids[at : at + 3]}",
            "预训练时一路升或一路降（T5 是降）；次序变了，学过的哨兵就认错了",
            "换回预训练时的分词器文件",
        )
    return Finding("ok", "sentinels", f"{len(ids)} 个哨兵，次序一贯")


def check_modes(subject: Subject) -> Finding:
    """混合去噪的模式写不写得出来。"""
    modes = getattr(subject.trial, "collator", None)
    if getattr(modes, "mode_ids", True):
        return Finding("ok", "modes", "本目标没有模式词元，或都写得出来")
    return Finding(
        "notice",
        "modes",
        "词表写不出 [NLU]、[NLG]、[S2S]，输入最前不放模式",
        "切出了 [UNK]；UL2 的检查点练的时候开头都有模式",
        "要放就先扩充词表：tokenizer.add_tokens，再 resize_token_embeddings",
    )


def check_decoder_start(subject: Subject) -> Finding:
    """解码器的第一个输入是不是特殊词元；设置里没有的，见 `check_needed_tokens`。"""
    wanted = "decoder_start_token_id"
    start = getattr(subject.model.config, wanted, None)
    if wanted not in subject.goal.model_options or start is None:
        return Finding("ok", "decoder_start", "没有解码器，或见上面的特殊词元")
    word = subject.tokenizer.convert_ids_to_tokens(start)
    if start in subject.tokenizer.all_special_ids:
        return Finding("ok", "decoder_start", f"解码器从 {word} 起头")
    return Finding(
        "warning",
        "decoder_start",
        f"解码器从 {start} 号词元（{word}）起头，它不是特殊词元",
        f"config.json 没写 {wanted} 时，transformers 的 BART 当它是 2，那是 "
        "facebook/bart 的 </s>；换了词表（如中文 BART 的 BERT 词表）就不是了",
        f"在 config.json 写上预训练时的 {wanted}（中文 BART 多是 [SEP] 的编号）",
    )


def check_end_token(subject: Subject) -> Finding:
    """因果模型靠结尾词元知道何时停。"""
    if not subject.goal.causal or subject.tokenizer.eos_token_id is not None:
        return Finding("ok", "end_token", "文档结尾有标记，或本目标用不着")
    return Finding(
        "warning",
        "end_token",
        "分词器没有结尾词元（eos_token）",
        "用 BERT 词表的中文 GPT-2 常常如此",
        "在 tokenizer_config.json 写上 eos_token（例如 [SEP]），否则续写不知何时停",
    )


def check_vocabulary(subject: Subject) -> Finding:
    """词元编号都在词嵌入之内。"""
    rows = len(word_table(subject.model))
    largest = max(subject.tokenizer.get_vocab().values())
    if largest >= rows:
        return Finding(
            "error",
            "vocabulary",
            f"词元编号到 {largest}，词嵌入只有 {rows} 行",
            "添过新词而没有扩词嵌入，或分词器与权重不配套",
            "换回配套的分词器，或先用 resize_token_embeddings 扩词嵌入",
        )
    return Finding("ok", "vocabulary", f"词表 {largest + 1}，词嵌入 {rows} 行")


def check_unknown(subject: Subject) -> Finding:
    """语料里有多少字是词表认不得的。"""
    rate, examples = _unknown(subject.tokenizer, subject.texts)
    message = f"认不得的字占 {rate:.2%}"
    if rate < _UNKNOWN_SERIOUS:
        return Finding("ok", "unknown", message)
    return Finding(
        "error" if rate > _UNKNOWN_FATAL else "warning",
        "unknown",
        f"{message}，例如 {' '.join(examples)}",
        "词表没有这些字，都成了同一个 [UNK]，无从学起；多半是简体词表遇上繁体，或反之",
        "换一个词表更大的检查点（繁体文言可用 SikuBERT），或先把语料转成相应的字体",
    )


def check_tokens_per_char(subject: Subject) -> Finding:
    """每字合几个词元：太多则行里装不下几个字。"""
    num_tokens = sum(len(text_ids(text, subject.tokenizer)) for text in subject.texts)
    ratio = num_tokens / sum(map(len, subject.texts))
    message = f"每字 {ratio:.2f} 个词元"
    if ratio < _TOKENS_PER_CHAR_HIGH:
        return Finding("ok", "tokens_per_char", message)
    return Finding(
        "warning",
        "tokens_per_char",
        message,
        "词表里中文词元少，汉字拆成了字节，同样的算力只读到一半的字",
        "换一个中文词表的检查点（BLOOM、Qwen3 约 0.6–0.9）",
    )


def _unknown(tokenizer: Any, texts: Sequence[str]) -> tuple[float, list[str]]:
    """认不得的字占的比例，与最常见的几个。"""
    unknown = unknown_id(tokenizer)
    lost: Counter[str] = Counter()
    encoded = token_spans(list(texts), tokenizer)
    for text, (ids, spans) in zip(texts, encoded, strict=True):
        lost.update(text[start:stop] for start, stop in spans[ids == unknown])
    del lost[""]
    total = sum(not char.isspace() for text in texts for char in text)
    num_lost = sum(len(piece) * count for piece, count in lost.items())
    shown = [piece[:_SHOWN] for piece, _ in lost.most_common(_SHOWN)]
    return num_lost / max(total, 1), shown
