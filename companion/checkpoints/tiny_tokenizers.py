"""极小分词器：与各家真分词器同类，词表取自几句中文，不联网。

三类：一字一元的 WordPiece（BERT 一族）、字节级 BPE（GPT-2、BLOOM、RoBERTa……）、
Unigram（XLM-R、T5、mT5、Pegasus、mBART）。都是 transformers 的标准分词器，
`AutoTokenizer` 读回同一个。
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

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
