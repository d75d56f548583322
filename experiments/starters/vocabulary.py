"""起步模型共用的单字词表。"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from companion.corpus.document import Document

VOCABULARY_SIZE = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>")
EXTRA = (
    "[sMASK]",
    "[gMASK]",
    "[sop]",
    "[eop]",
    *(f"<extra_id_{i}>" for i in range(100)),
)
POSITIONS = 256
"""一行至多多少词元。"""
TEMPLATES = {
    "bert": {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"},
    "t5": {"single": "$A </s>", "pair": "$A </s> $B:1 </s>:1"},
    "bart": {"single": "<s> $A </s>", "pair": "<s> $A </s> </s>:1 $B:1 </s>:1"},
    "glm": {"single": "[CLS] $A </s>", "pair": "[CLS] $A </s> $B:1 </s>:1"},
}
"""分词器在两头加什么；BLOOM 不加。"""


def build_tokenizer(
    documents: Iterable[Document], kind: str
) -> PreTrainedTokenizerFast:
    """单字词表：特殊词元，加上语料里最常见的字，共 8,000 个。"""
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document.text)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    characters = [c for c, _ in ranked if not c.isspace()]
    words = [*SPECIAL, *EXTRA, " ", *characters][:VOCABULARY_SIZE]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    names: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if kind in ("bert", "electra"):
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    elif kind == "glm":
        names |= {"cls_token": "[CLS]", "eos_token": "</s>", "mask_token": "[MASK]"}
    else:
        names |= {"bos_token": "<s>", "eos_token": "</s>"}
    if kind == "bart":
        names |= {"mask_token": "[MASK]"}
    kind = "bert" if kind == "electra" else kind
    if kind in TEMPLATES:
        template = TEMPLATES[kind]
        tokenizer.post_processor = TemplateProcessing(
            **template,
            special_tokens=[
                (word, words.index(word))
                for word in SPECIAL
                if word in template["pair"]
            ],
        )
    rest = [w for w in (*SPECIAL, *EXTRA) if w not in names.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=rest,
        model_max_length=POSITIONS,
        **names,
    )


def log_frequency(vocab_size: int) -> torch.Tensor:
    """词表按频率排列，第 r 个字的对数频率约为 −ln(r + 10)，(V,)；哨兵当作常见字。"""
    ranks = torch.arange(vocab_size) - len(SPECIAL) - len(EXTRA)
    ranks[: len(SPECIAL)] = vocab_size
    ranks[SPECIAL.index("</s>")] = 0
    first = EXTRA.index("<extra_id_0>") + len(SPECIAL)
    ranks[first : first + 100] = torch.arange(100) * 4
    return -(ranks.clamp(min=0) + 10.0).log()
