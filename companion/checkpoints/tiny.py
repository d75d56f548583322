"""各种架构的极小模型：权重随机，只供测试，不联网。

`tiny_model("bloom")` 是两层、宽 32 的 BLOOM，`tiny_tokenizer("bloom")` 是与真
BLOOM 同类的分词器（字节级 BPE），词表取自几句中文。它们能存成检查点、再由
`AutoModel…` 与 `AutoTokenizer` 打开，所以真模型会遇到的事（位置上限、填充、掩码、
打包泄漏）都能在几毫秒里试出来。随机权重证明不了“继续预训练有效”：那要用起点模型
（`starter:bert` 等）。

分词器有三类：一字一元的 WordPiece（BERT 一族）、字节级 BPE（GPT-2、BLOOM、RoBERTa……）、
Unigram（XLM-R、T5、mT5、Pegasus、mBART）。都是 transformers 的标准分词器。

    >>> tokenizer = tiny_tokenizer("bert")
    >>> tokenizer.tokenize("良弓藏")
    ['良', '弓', '藏']
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from typing import Any

from companion.checkpoints.alibi import accept_document_masks
from companion.errors import ModelError

TINY_TEXT = (
    "撒盐空中差可拟，未若柳絮因风起。",
    "狡兔死，走狗烹；飞鸟尽，良弓藏。",
    "勿以善小而不为，勿以恶小而为之。",
    "上必且劝之以赏，然后可进。",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "天下大势，分久必合，合久必分。",
    "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。",
    "王使人告于诸侯，诸侯皆来会，大夫以兵从之。",
    "三年春，大旱，民饥，令郡国开仓以振之。",
    "今天已经星期日了，明天就是周末了。",
    "我们在长城脚下读历史，老师讲了许多古人的故事。",
    "他说：“这本书很好看。”大家都笑了起来！",
    "语言模型先读很多文字，再学会猜出下一个字。",
)
"""极小分词器的全部语料：文言与白话各几句，都已无著作权。"""

_WORD_PIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SENTINELS = tuple(f"<extra_id_{i}>" for i in range(10))


_HIDDEN, _LAYERS, _HEADS, _INNER, _POSITIONS = 32, 2, 4, 64, 128


@dataclass(frozen=True)
class TinyKind:
    """一种架构：任务类、分词器、配置。

    Args:
        auto_class: 用哪个 `AutoModelFor…` 建模。
        tokenizer: 建分词器的函数。
        model_type: transformers 的 `model_type`，缺省与种类同名。
        config: 配置里除词表与特殊词元外的各项。
        decoder_start: 编码器–解码器的解码器从哪个词元起头。
        own_head: 输出头与词嵌入各是一份（mT5）。
    """

    auto_class: str
    tokenizer: Callable[[], Any]
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    decoder_start: str | None = None
    own_head: bool = False


def tiny_tokenizer(kind: str) -> Any:
    """与某种架构的真分词器同类的极小分词器。

    Args:
        kind: `TINY_KINDS` 的键，例如 "bert"、"bloom"。

    Returns:
        transformers 的分词器；存盘后 `AutoTokenizer.from_pretrained` 读回同一个。

    Raises:
        ModelError: 没有这种架构。
    """
    return _kind(kind).tokenizer()


def tiny_model(
    kind: str,
    tokenizer: Any = None,
    seed: int = 0,
    *,
    attn_implementation: str | None = None,
    auto_class: str | None = None,
    **overrides: Any,
) -> Any:
    """随机权重的极小模型，评估模式；全局随机状态原样不动。

    Args:
        kind: `TINY_KINDS` 的键。
        tokenizer: 词表与特殊词元由它定；缺省用 `tiny_tokenizer(kind)`。
        seed: 权重只由（架构，词表大小，种子）决定。
        attn_implementation: "eager" 或 "sdpa"；缺省由 transformers 选。
        auto_class: 换一个 Auto 类建，例如 "AutoModelForPreTraining"；缺省是这种架构的。
        **overrides: 覆盖配置的任意字段，例如 `hidden_size=16`。

    Returns:
        `transformers.PreTrainedModel`，float32。

    Raises:
        ModelError: 没有这种架构。
    """
    import torch
    import transformers
    from transformers import AutoConfig

    spec = _kind(kind)
    if spec.model_type == "glm_two_row":
        import_module("companion.checkpoints.two_row_glm")  # 向 Auto 类登记
    accept_document_masks(spec.model_type)
    tokenizer = spec.tokenizer() if tokenizer is None else tokenizer
    fields = _special_ids(tokenizer) | spec.config
    if spec.decoder_start is not None:
        start = tokenizer.convert_tokens_to_ids(spec.decoder_start)
        fields["decoder_start_token_id"] = start
    config = AutoConfig.for_model(
        spec.model_type, vocab_size=len(tokenizer), **(fields | overrides)
    )
    builder = getattr(transformers, auto_class or spec.auto_class)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = builder.from_config(config, attn_implementation=attn_implementation)
        if spec.own_head:  # transformers 5.23 总是共享，读真的检查点时才分开
            separate = 0.05 * torch.randn_like(model.lm_head.weight)
            model.lm_head.weight = torch.nn.Parameter(separate)
            model.config.tie_word_embeddings = False
    return model.eval()


def _kind(kind: str) -> TinyKind:
    if kind in TINY_KINDS:
        return TINY_KINDS[kind]
    raise ModelError(
        found=f"未知的架构 {kind!r}",
        expected=f"{'、'.join(sorted(TINY_KINDS))} 之一",
        remedy="换用上列名字；真模型用 load_checkpoint 打开",
    )


def _special_ids(tokenizer: Any) -> dict[str, int]:
    """配置里要写明的特殊词元：缺省值是真模型的编号，会落在极小词表之外。"""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    edges = {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}
    for edge, name in edges.items():
        if getattr(tokenizer, edge) is not None:
            ids[edge] = getattr(tokenizer, edge)
            ids[name] = ids[edge] if ids[name] is None else ids[name]
    return ids


def _characters() -> list[str]:
    """语料里的字，按码位排序。"""
    return sorted(set("".join(TINY_TEXT)))


def word_piece_tokenizer() -> Any:
    """BERT 类：一字一元，词表外为 [UNK]；续词形式 ## 也给字母与数字备上。"""
    from transformers import BertTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789")
    pieces = [*_WORD_PIECE_SPECIALS, *_characters(), *letters]
    pieces += [f"##{letter}" for letter in letters]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def _byte_bpe(specials: tuple[str, ...], merges: int = 160) -> Any:
    """字节级 BPE：任何文字都能写出，一个汉字占 1 至 3 个词元。"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 256 + merges,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TINY_TEXT, trainer)
    return bpe


def roberta_tokenizer() -> Any:
    """RoBERTa 与 BART：<s> … </s>，掩码是 <mask>。"""
    from transformers import RobertaTokenizer

    return RobertaTokenizer(
        **_vocab_and_merges(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    )


def gpt2_tokenizer() -> Any:
    """GPT-2：<|endoftext|> 身兼开头、结尾与未知，没有填充词元。"""
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer(**_vocab_and_merges(("<|endoftext|>",)))


def _vocab_and_merges(specials: tuple[str, ...]) -> dict[str, Any]:
    model = json.loads(_byte_bpe(specials).to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return {"vocab": model["vocab"], "merges": merges}


def decoder_tokenizer(
    bos: str | None, eos: str, pad: str, *others: str
) -> Callable[[], Any]:
    """BLOOM、Llama、Qwen3、GLM：字节级 BPE，不自动加任何特殊词元。"""

    def build() -> Any:
        from transformers import PreTrainedTokenizerFast

        specials = tuple(dict.fromkeys(t for t in (*others, bos, eos, pad) if t))
        names = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
        return PreTrainedTokenizerFast(
            tokenizer_object=_byte_bpe(specials),
            **{name: token for name, token in names.items() if token},
        )

    return build


def modernbert_tokenizer() -> Any:
    """ModernBERT：字节级 BPE，外形却是 [CLS] … [SEP]。"""
    return _wrapped(_byte_bpe(_WORD_PIECE_SPECIALS), *_WORD_PIECE_SPECIALS)


def xlm_tokenizer() -> Any:
    """XLM 与 FlauBERT：真分词器要 sacremoses 且没有快速版，这里用一字一元的代替。"""
    specials = ("<pad>", "<unk>", "<s>", "</s>", "<special1>")
    order = ("<s>", "</s>", "<pad>", "<unk>", "<special1>")
    return _wrapped(_one_per_character(order, "<unk>"), *specials)


def two_row_tokenizer() -> Any:
    """两行位置的 GLM：[CLS] … </s>，三种空与片段的首尾各占一个编号。"""
    specials = ("[PAD]", "[UNK]", "[CLS]", "</s>", "[MASK]")
    more = ["[sMASK]", "[gMASK]", "[sop]", "[eop]"]
    backend = _one_per_character((*specials, *more), "[UNK]")
    tokenizer = _wrapped(backend, *specials, extra_special_tokens=more)
    tokenizer.eos_token = tokenizer.sep_token
    return tokenizer


def _one_per_character(specials: tuple[str, ...], unk: str) -> Any:
    """一字一元，特殊词元在前。"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {piece: i for i, piece in enumerate((*specials, *_characters()))}
    words = Tokenizer(models.WordLevel(vocab, unk_token=unk))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.decoder = decoders.Fuse()
    return words


def _wrapped(
    backend: Any, pad: str, unk: str, cls: str, sep: str, mask: str, **options: Any
) -> Any:
    """给分词器加上 CLS … SEP 的模板。"""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    edges = [(token, backend.token_to_id(token)) for token in (cls, sep)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B {sep}", special_tokens=edges
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        **options,
    )


def _unigram_pieces(specials: tuple[str, ...]) -> list[tuple[str, float]]:
    """Unigram 词表：字与出现两次以上的二字，分数是对数频率。"""
    text = "".join(TINY_TEXT)
    counts = Counter(text) + Counter({"▁": len(TINY_TEXT)})
    pairs = Counter(a + b for line in TINY_TEXT for a, b in pairwise(line))
    counts += Counter({pair: n for pair, n in pairs.items() if n > 1})
    total = counts.total()
    scored = sorted((piece, math.log(n / total)) for piece, n in counts.items())
    return [(special, 0.0) for special in specials] + scored


def xlm_roberta_tokenizer() -> Any:
    """XLM-R：SentencePiece Unigram，词首有 ▁。"""
    from transformers import XLMRobertaTokenizer

    specials = ("<s>", "<pad>", "</s>", "<unk>")
    return XLMRobertaTokenizer(vocab=[*_unigram_pieces(specials), ("<mask>", 0.0)])


def t5_tokenizer() -> Any:
    """T5：Unigram，结尾加 </s>，词表末尾是哨兵词元 <extra_id_0> …。"""
    return _t5_style(
        _unigram_pieces(("<pad>", "</s>", "<unk>")),
        extra_special_tokens=list(_SENTINELS),
    )


def mt5_tokenizer() -> Any:
    """MT5：哨兵在 SentencePiece 的词表里头，编号递减，带 ▁，不登记为特殊词元。"""
    pieces = _unigram_pieces(("<pad>", "</s>", "<unk>"))
    sentinels = [(f"▁{sentinel}", -20.0) for sentinel in reversed(_SENTINELS)]
    return _t5_style([*pieces[:100], *sentinels, *pieces[100:]])


def _t5_style(pieces: list[tuple[str, float]], **options: Any) -> Any:
    """T5 与 mT5：Unigram，结尾加 </s>。"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    unigram = Tokenizer(models.Unigram(pieces, unk_id=2))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **options,
    )


def pegasus_tokenizer() -> Any:
    """Pegasus：整句的掩码是 <mask_1>，词的掩码是 <mask_2>，结尾加 </s>。"""
    from transformers import PegasusTokenizer

    specials = ("<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk>")
    return PegasusTokenizer(vocab=_unigram_pieces(specials), offset=3)


def mbart_tokenizer() -> Any:
    """MBART：结尾是 </s> 与语言代码，没有开头。"""
    from transformers import MBartTokenizer
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

    pieces = _unigram_pieces(("<s>", "<pad>", "</s>", "<unk>"))
    last = [(token, 0.0) for token in (*FAIRSEQ_LANGUAGE_CODES, "<mask>")]
    return MBartTokenizer(vocab=[*pieces, *last], src_lang="zh_CN")


_BERT_SIZE = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "intermediate_size": _INNER,
    "max_position_embeddings": _POSITIONS,
}
_ROBERTA_SIZE = _BERT_SIZE | {
    "max_position_embeddings": _POSITIONS + 2,  # 位置从 pad_token_id + 1 = 2 数起
    "type_vocab_size": 1,
}
_LLAMA_SIZE = _BERT_SIZE | {"num_key_value_heads": 2, "head_dim": _HIDDEN // _HEADS}
_XLM_SIZE = {
    "emb_dim": _HIDDEN,
    "n_layers": _LAYERS,
    "n_heads": _HEADS,
    "max_position_embeddings": _POSITIONS,
    "n_langs": 1,
    "mask_index": 4,
}
_T5_SIZE = {
    "d_model": _HIDDEN,
    "d_kv": _HIDDEN // _HEADS,
    "d_ff": _INNER,
    "num_layers": _LAYERS,
    "num_heads": _HEADS,
}
_BART_SIZE = {
    "d_model": _HIDDEN,
    "encoder_layers": _LAYERS,
    "decoder_layers": _LAYERS,
    "encoder_attention_heads": _HEADS,
    "decoder_attention_heads": _HEADS,
    "encoder_ffn_dim": _INNER,
    "decoder_ffn_dim": _INNER,
    "max_position_embeddings": _POSITIONS,
}

_MASKED, _CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"
_SEQ2SEQ = "AutoModelForSeq2SeqLM"

TINY_KINDS: dict[str, TinyKind] = {
    "bert": TinyKind(_MASKED, word_piece_tokenizer, "bert", _BERT_SIZE),
    "ernie": TinyKind(_MASKED, word_piece_tokenizer, "ernie", _BERT_SIZE),
    "albert": TinyKind(
        _MASKED, word_piece_tokenizer, "albert", _BERT_SIZE | {"embedding_size": 16}
    ),
    "roberta": TinyKind(_MASKED, roberta_tokenizer, "roberta", _ROBERTA_SIZE),
    "distilbert": TinyKind(
        _MASKED,
        word_piece_tokenizer,
        "distilbert",
        {
            "dim": _HIDDEN,
            "n_layers": _LAYERS,
            "n_heads": _HEADS,
            "hidden_dim": _INNER,
            "max_position_embeddings": _POSITIONS,
        },
    ),
    "convbert": TinyKind(
        _MASKED,
        word_piece_tokenizer,
        "convbert",
        _BERT_SIZE | {"embedding_size": _HIDDEN, "conv_kernel_size": 3},
    ),
    # 读得懂句对的 XLM（mlm-tlm）有几种语言；FlauBERT 只有法语
    "xlm": TinyKind(_MASKED, xlm_tokenizer, "xlm", _XLM_SIZE | {"n_langs": 2}),
    "xlm-roberta": TinyKind(
        _MASKED, xlm_roberta_tokenizer, "xlm-roberta", _ROBERTA_SIZE
    ),
    "flaubert": TinyKind(_MASKED, xlm_tokenizer, "flaubert", _XLM_SIZE),
    "electra": TinyKind(
        _MASKED, word_piece_tokenizer, "electra", _BERT_SIZE | {"embedding_size": 16}
    ),
    "funnel": TinyKind(
        _MASKED,
        word_piece_tokenizer,
        "funnel",
        {
            "d_model": _HIDDEN,
            "n_head": _HEADS,
            "d_head": _HIDDEN // _HEADS,
            "d_inner": _INNER,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "max_position_embeddings": _POSITIONS,
        },
    ),
    # 真 ModernBERT 每三层一层全局，其余只看窗口；这里一层全局、一层窗口 16
    "modernbert": TinyKind(
        _MASKED,
        modernbert_tokenizer,
        "modernbert",
        _BERT_SIZE | {"local_attention": 16},
    ),
    "gpt2": TinyKind(
        _CAUSAL,
        gpt2_tokenizer,
        "gpt2",
        {"n_embd": _HIDDEN, "n_layer": _LAYERS, "n_head": _HEADS, "n_positions": 128},
    ),
    "bloom": TinyKind(
        _CAUSAL,
        decoder_tokenizer("<s>", "</s>", "<pad>", "<unk>"),
        "bloom",
        {"hidden_size": _HIDDEN, "n_layer": _LAYERS, "n_head": _HEADS},
    ),
    "llama": TinyKind(
        _CAUSAL,
        decoder_tokenizer(
            "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
        ),
        "llama",
        _LLAMA_SIZE,
    ),
    "qwen3": TinyKind(
        _CAUSAL,
        decoder_tokenizer(None, "<|im_end|>", "<|endoftext|>"),
        "qwen3",
        _LLAMA_SIZE,
    ),
    "glm": TinyKind(
        _CAUSAL,
        decoder_tokenizer(None, "<|endoftext|>", "<|endoftext|>"),
        "glm",
        _LLAMA_SIZE,
    ),
    "glm_two_row": TinyKind(_CAUSAL, two_row_tokenizer, "glm_two_row", _BERT_SIZE),
    "t5": TinyKind(_SEQ2SEQ, t5_tokenizer, "t5", _T5_SIZE, "<pad>"),
    "mt5": TinyKind(_SEQ2SEQ, mt5_tokenizer, "mt5", _T5_SIZE, "<pad>", own_head=True),
    "bart": TinyKind(_SEQ2SEQ, roberta_tokenizer, "bart", _BART_SIZE, "</s>"),
    # 中文 BART 用 BERT 的词表与首尾，解码器从 [SEP] 起头
    "bart-chinese": TinyKind(
        _SEQ2SEQ, word_piece_tokenizer, "bart", _BART_SIZE, "[SEP]"
    ),
    "pegasus": TinyKind(_SEQ2SEQ, pegasus_tokenizer, "pegasus", _BART_SIZE, "<pad>"),
    "mbart": TinyKind(_SEQ2SEQ, mbart_tokenizer, "mbart", _BART_SIZE, "zh_CN"),
}
"""种类 → 架构。一张看得见的表，没有注册器。"""
