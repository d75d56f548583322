"""语料：从原始文本到文档，再到词元与打包的行；不用 torch。

一篇文本走过的路，每步一种类型进、一种类型出，不回头：

- `reading`：文件 → `Document`
- `cleaning`、`dedup`：`Document` → `Document`，或计了数的理由
- `splitting`：→ 训练集、留出集
- `words`、`tokens`：→ 词元
- `packing`、`pairing`：→ 打包的行，或一行一个句对；`ledger` 记账

公开的名字在第一次用到时才载入，`import companion.corpus` 本身不碰任何大库。
"""

from companion.lazy import on_first_use

_HOMES = {
    "CLEANING_RULES": "cleaning",
    "BlockDataset": "packing",
    "CleaningReport": "cleaning",
    "Cloze": "sources",
    "CorpusStatistics": "dedup",
    "DedupReport": "dedup",
    "Document": "document",
    "FetchReport": "fetching",
    "MissingPiece": "tokenization",
    "MissingVocabulary": "tokenization",
    "NamedSource": "sources",
    "OverlapReport": "dedup",
    "PairDataset": "pairing",
    "Piece": "tokens",
    "Resolved": "sources",
    "Split": "documents",
    "TokenLedger": "packing",
    "TokenStore": "tokens",
    "clean_documents": "cleaning",
    "clean_text": "cleaning",
    "corpus_stats": "dedup",
    "deduplicate": "dedup",
    "dictionary_segmenter": "words",
    "fetch": "fetching",
    "jieba_segmenter": "words",
    "join_lines": "document",
    "list_sources": "sources",
    "missing_vocabulary": "tokenization",
    "names_first": "words",
    "overlap": "dedup",
    "pair_rows": "pairing",
    "plan_packing": "packing",
    "read_cloze": "sources",
    "read_corpus": "sources",
    "read_documents": "reading",
    "read_pairs": "reading",
    "read_similar_words": "words",
    "read_word_list": "words",
    "resolve": "sources",
    "segmenters_for": "words",
    "split_corpus": "documents",
    "split_documents": "documents",
    "split_tail": "documents",
    "tokenize_documents": "tokens",
    "word_ids": "words",
    "write_documents": "reading",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
