"""词元库：分词的结果、每个字的账、缓存与中断。"""

import errno
import json
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from companion.corpus import tokenization, tokens
from companion.corpus.packing import Piece
from companion.corpus.store import StoreWriter, TokenStore
from companion.corpus.tokenization import (
    TextBatch,
    align_pieces,
    cut_texts,
    encode_texts,
)
from companion.corpus.tokens import tokenize_documents, tokenizer_fingerprint
from companion.corpus.words import dictionary_segmenter
from companion.errors import CorpusError

CHARACTERS = "臣光曰：天子之职莫大于礼，分名。𠮷abc"
TEXTS = ["臣光曰：天子之职，莫大于礼。", "", "礼莫大于分\n分莫大于名", "abc 𠮷鬱é"]


class Text(NamedTuple):
    """词元库只看文档的 text。"""

    text: str


def documents(texts: list[str]) -> list[Any]:
    return [Text(text) for text in texts]


def build(kind: str) -> PreTrainedTokenizerFast:
    """三类分词器，都不必训练：字的 WordPiece、字的 Unigram、逐字节的 BPE。"""
    if kind == "wordpiece":
        vocab = {"[UNK]": 0, "[MASK]": 1}
        for char in CHARACTERS:
            vocab |= {char: len(vocab), f"##{char}": len(vocab) + 1}
        backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.add_special_tokens(["[MASK]"])
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    if kind == "sentencepiece":
        pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁天", -1.0), ("大于", -1.5)]
        pieces += [(char, -3.0) for char in CHARACTERS]
        backend = Tokenizer(models.Unigram(pieces, unk_id=0))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=kind == "trimmed")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


KINDS = ["wordpiece", "sentencepiece", "bytelevel", "trimmed"]
TOKENIZERS = {kind: build(kind) for kind in KINDS}


class Slow(PreTrainedTokenizer):
    """纯 Python 的分词器，像 XLM 那样小写、改写标点，且没有偏移。"""

    vocab_files_names: ClassVar = {"vocab_file": "vocab.json"}

    def __init__(self, **kwargs: Any) -> None:
        self._vocab = {"<unk>": 0} | {f"{c}</w>": i for i, c in enumerate("天子a,", 1)}
        super().__init__(unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocab)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        changed = text.lower().replace("，", ",")
        return [f"{char}</w>" for char in changed if not char.isspace()]

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocab.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self._vocab)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("</w>", " ")

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str]:
        path = Path(save_directory) / "vocab.json"
        path.write_text(json.dumps(self._vocab), "utf-8")
        return (str(path),)


@pytest.fixture
def wordpiece() -> PreTrainedTokenizerFast:
    return build("wordpiece")


def whole(store: TokenStore, document: int) -> Piece:
    return Piece(document, 0, int(store.lengths[document]))


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_is_what_the_tokenizer_says(kind: str, tmp_path: Path) -> None:
    """库里的每一篇就是分词器对它的输出，空文档也占一篇。"""
    tokenizer = TOKENIZERS[kind]
    store = tokenize_documents(documents(TEXTS), tokenizer, cache_dir=tmp_path)
    assert len(store) == len(TEXTS)
    for number, text in enumerate(TEXTS):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert store.tokens(whole(store, number)).tolist() == expected
    assert store.tokens(whole(store, 0)).dtype == np.int64
    assert store.ids.dtype == np.uint16


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(CHARACTERS + " \n鬱é▁", max_size=30))
def test_every_character_is_counted_once(kind: str, text: str) -> None:
    """字数之和加丢掉的字数等于原文字数；字节 BPE 一个字也不丢。"""
    encoded = encode_texts(TextBatch([text], [True]), TOKENIZERS[kind])
    total = int(encoded.num_chars.sum())
    assert encoded.num_chars.dtype == np.uint8
    if kind == "wordpiece":  # 只丢空白与 BertNormalizer 去掉的重音
        assert total == len("".join(text.split()))
    else:
        assert total == len(text)


def test_a_character_of_several_tokens_counts_at_the_first() -> None:
    """𠮷 是四个字节、四个词元：首个记 1，其余记 0。"""
    encoded = encode_texts(TextBatch(["a𠮷"], [True]), TOKENIZERS["bytelevel"])
    assert encoded.num_chars.tolist() == [1, 1, 0, 0, 0]


def test_offsets_that_step_back_count_nothing_twice() -> None:
    """后一个词元的偏移退回到前一个之内，字也不重记。"""
    offsets = np.array([(0, 2), (0, 1), (1, 3), (5, 6)])
    counts = tokenization.count_characters(np.arange(4), offsets, "天子之职大于")
    assert counts.tolist() == [2, 0, 1, 1]


def test_an_invented_metaspace_counts_no_character() -> None:
    """行首添的 ▁ 不占字，原文的空格占一个字。"""
    tokenizer = TOKENIZERS["sentencepiece"]
    encoded = encode_texts(TextBatch(["子 天"], [True]), tokenizer)
    names = tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    assert names == ["▁", "子", "▁天"]
    assert encoded.num_chars.tolist() == [0, 1, 2]


def test_a_space_that_the_offsets_hide_still_counts() -> None:
    """GPT-2 的偏移略去 Ġ 代表的空格，可空格确实要预测，字数照记。"""
    encoded = encode_texts(TextBatch(["a b"], [True]), TOKENIZERS["trimmed"])
    assert encoded.num_chars.tolist() == [1, 1, 1]


def test_one_token_holds_at_most_255_characters(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """三百字母的怪词成了一个 [UNK]：记 255 字，其余算作丢掉，总账仍平。"""
    store = tokenize_documents(documents(["x" * 300]), wordpiece, cache_dir=tmp_path)
    assert store.num_chars.tolist() == [255]
    assert store.meta["num_dropped_characters"] == 45
    assert store.meta["num_unk"] == 1


def test_the_meta_counts_unknown_and_dropped(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """账目：词表里没有的字记作 [UNK]，空格与换行丢掉。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert store.meta["num_characters"] == sum(map(len, TEXTS))
    assert store.meta["num_dropped_characters"] == 2
    assert store.meta["num_unk"] == int((store.ids == 0).sum()) > 0


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel"])
def test_special_tokens_spelled_in_the_text_are_text(kind: str, tmp_path: Path) -> None:
    """语料里的 “[MASK]” 不会变成掩码词元，分词器自己的设置也不因此改变。"""
    tokenizer = build(kind)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    store = tokenize_documents(documents(["天[MASK]子"]), tokenizer, cache_dir=tmp_path)
    assert tokenizer.mask_token_id not in store.ids
    assert tokenizer.mask_token_id in tokenizer("天[MASK]子")["input_ids"]
    tokenizer = build(kind)
    tokenize_documents(documents(["天子"]), tokenizer, cache_dir=tmp_path)
    assert not tokenizer.backend_tokenizer.encode_special_tokens


def test_word_ids_of_a_piece_start_afresh(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """词界存在库里；从词的中间切开，后半个词自成一词。"""
    segmenter = dictionary_segmenter(["天子之职", "大于"])
    store = tokenize_documents(
        documents(["曰天子之职大于礼"]),
        wordpiece,
        cache_dir=tmp_path,
        segmenter=segmenter,
    )
    assert store.word_ids(whole(store, 0)).tolist() == [0, 1, 1, 1, 1, 2, 2, 3]
    assert store.word_ids(Piece(0, 2, 8), first=5).tolist() == [5, 5, 5, 6, 6, 7]


def test_word_ids_need_a_segmenter() -> None:
    """没有给切词器的库没有词界，错误说明怎么办。"""
    with pytest.raises(CorpusError, match="segmenter"):
        TokenStore.from_ids([[1, 2]]).word_ids(Piece(0, 0, 2))


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=20))
def test_stored_word_ids_keep_the_partition(raw: list[int]) -> None:
    """一个字节的记号足以还原词的划分：相邻的同词仍同词，−1 仍是 −1。"""
    ids = np.where(np.array(raw) < 0, -1, np.maximum.accumulate(raw))
    store = TokenStore.from_ids([[7] * len(raw)], word_ids=[ids.tolist()])
    found = store.word_ids(Piece(0, 0, len(raw)))
    assert ((found < 0) == (ids < 0)).all()
    inside = ids[ids >= 0]
    assert np.array_equal(np.diff(found[ids >= 0]) > 0, np.diff(inside) > 0)


def test_long_documents_are_cut_at_line_ends(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """长文切成小段再分词，仍是一篇文档，编号与不切时相同。"""
    text = "天子之职，莫大于礼。礼莫大于分\n" * 9 + "臣光曰" * 30
    expected = wordpiece(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(tokenization, "CHUNK_CHARACTERS", 40)
    batches = list(cut_texts([text]))
    chunks = [chunk for batch in batches for chunk in batch.texts]
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= 40
    assert all(chunk.endswith(("\n", "。")) for chunk in chunks[:4])
    assert sum(batch.ends.count(True) for batch in batches) == 1
    store = tokenize_documents(documents([text]), wordpiece, cache_dir=tmp_path)
    assert store.tokens(whole(store, 0)).tolist() == expected


@given(st.lists(st.text("天。\n a", max_size=60), max_size=6))
def test_cutting_keeps_every_character_and_document(texts: list[str]) -> None:
    """切段凑批之后，接起来还是原来的各篇文档。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization, "CHUNK_CHARACTERS", 8)
        patch.setattr(tokenization, "BATCH_CHARACTERS", 100)
        found, current = [], ""
        for batch in cut_texts(texts):
            for chunk, end in zip(*batch, strict=True):
                assert len(chunk) <= 8
                current += chunk
                if end:
                    found.append(current)
                    current = ""
    assert found == texts


def test_the_cache_opens_the_same_store(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """第二次不再分词，打开的是同一个文件夹；截断与填充的设置不算改变。"""
    first = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    wordpiece.backend_tokenizer.enable_truncation(3)
    wordpiece.backend_tokenizer.enable_padding(length=9)

    def refuse(*_: object) -> Iterator[object]:
        raise AssertionError("不该再分词")

    monkeypatch.setattr(tokenization, "encode_batches", refuse)
    again = tokenize_documents(
        lambda: iter(documents(TEXTS)), wordpiece, cache_dir=tmp_path
    )
    assert again.path == first.path
    assert again.meta == first.meta
    assert np.array_equal(again.ids, first.ids)


def test_a_change_of_text_tokenizer_or_words_misses_the_cache(tmp_path: Path) -> None:
    """换一个字、挪一处文档分界、换分词器或切词器，都另起一个库。"""
    kinds = [TOKENIZERS["wordpiece"], TOKENIZERS["bytelevel"]]
    segmenters = [None, dictionary_segmenter(["天"]), dictionary_segmenter(["地"])]
    corpora = [["天子", "曰"], ["天子曰"], ["天子", "名"], ["天子", "曰", ""]]
    paths = {
        tokenize_documents(
            documents(texts), tokenizer, cache_dir=tmp_path, segmenter=segmenter
        ).path
        for texts in corpora
        for tokenizer in kinds
        for segmenter in segmenters
    }
    assert len(paths) == 24


def test_the_fingerprint_ignores_where_a_tokenizer_lies(tmp_path: Path) -> None:
    """同一分词器存到别处再打开，指纹不变；加一个词元就变。"""
    tokenizer = build("wordpiece")
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(loaded) == before
    loaded.add_tokens(["乌孙"])
    assert tokenizer_fingerprint(loaded) != before
    assert tokenizer_fingerprint(Slow()) == tokenizer_fingerprint(Slow())


def test_a_damaged_store_is_built_again(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """文件短了一截的库打不开，再次分词时自动重做。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert store.path is not None
    expected = np.array(store.ids)
    (store.path / "ids.bin").write_bytes(b"\0")
    with pytest.raises(CorpusError, match=r"ids\.bin"):
        TokenStore.open(store.path)
    again = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert np.array_equal(again.ids, expected)


def test_an_interrupted_run_leaves_nothing(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """中途 Ctrl-C，文件夹里什么也不剩。"""

    def interrupt(done: int, total: int) -> None:
        assert 0 < done <= total
        assert list(tmp_path.iterdir())  # 正写到一半
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_documents(
            documents(TEXTS), wordpiece, cache_dir=tmp_path, on_progress=interrupt
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """磁盘满了，错误说出文件夹与原因，半个库也不留。"""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoreWriter, "write", full)
    with pytest.raises(CorpusError, match="No space left"):
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_reported(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """cache_dir 其实是个文件，错误说出它。"""
    path = tmp_path / "cache"
    path.write_text("")
    with pytest.raises(CorpusError, match="写不进"):
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=path)


def test_a_corpus_that_changes_between_the_passes_is_refused(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """指纹与内容必须是同一份文字：第二遍读到别的就停下。"""
    texts = ["天子"]

    def growing() -> Iterator[Any]:
        texts.append("曰")
        return iter(documents(texts))

    with pytest.raises(CorpusError, match="两遍读到的语料不同"):
        tokenize_documents(growing, wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_iterator_that_reads_once_is_refused(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """一次性的迭代器读不了两遍，错误说明改传什么。"""
    once: Any = iter(documents(TEXTS))
    with pytest.raises(CorpusError, match="lambda"):
        tokenize_documents(once, wordpiece, cache_dir=tmp_path)


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\u3000"]])
def test_a_corpus_without_tokens_is_refused(
    texts: list[str], wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """没有文档、空文档、只有空白，都说明没有一个词元。"""
    with pytest.raises(CorpusError, match="没有一个词元"):
        tokenize_documents(documents(texts), wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_give_the_same_store(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """分给两个进程，写出的文件与一个进程的逐字节相同。"""
    monkeypatch.setattr(tokenization, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 100)
    texts = [text * n for n in range(1, 7) for text in TEXTS]
    stores = [
        tokenize_documents(
            documents(texts),
            wordpiece,
            cache_dir=tmp_path / str(num_proc),
            segmenter=dictionary_segmenter(["天子", "大于"]),
            num_proc=num_proc,
        )
        for num_proc in (1, 2)
    ]
    one, two = (store.path for store in stores)
    assert one is not None
    assert two is not None
    assert one.name == two.name
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


def test_processes_are_used_where_they_pay() -> None:
    """快速分词器不切词时自己就是多线程的；切词与纯 Python 的分词器字多才值得。"""
    fast, cut = TOKENIZERS["wordpiece"], dictionary_segmenter([])
    assert not tokenization.processes_pay(fast, None, 10**9)
    assert tokenization.processes_pay(fast, cut, 10**9)
    assert tokenization.processes_pay(Slow(), None, 10**9)
    assert not tokenization.processes_pay(Slow(), cut, 10**4)


def test_memory_does_not_grow_with_the_corpus(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """语料大到八倍，峰值内存几乎不变：内存里只有一批。"""
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 4_000)

    def peak(count: int) -> int:
        def stream() -> Iterator[Any]:
            return (Text("天子之职莫大于礼。" * 50) for _ in range(count))

        tracemalloc.start()
        tokenize_documents(stream, wordpiece, cache_dir=tmp_path / str(count))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(1)  # 首次使用的一次性开销
    assert peak(200) < 1.25 * peak(25)


def test_a_slow_tokenizer_counts_characters_by_alignment(tmp_path: Path) -> None:
    """没有偏移的分词器：改写的标点、[UNK] 也都记到字数。"""
    texts = ["天子，A 地天", "龍"]
    store = tokenize_documents(documents(texts), Slow(), cache_dir=tmp_path)
    assert store.tokens(whole(store, 0)).tolist() == [1, 2, 4, 3, 0, 1]
    assert store.characters(whole(store, 0)).tolist() == [1, 1, 1, 1, 1, 1]
    assert store.characters(whole(store, 1)).tolist() == [1]
    assert store.meta["num_dropped_characters"] == 1  # 空格


def test_a_slow_tokenizer_refuses_whole_words(tmp_path: Path) -> None:
    """没有偏移就没有可靠的词界，错误给出两条出路。"""
    with pytest.raises(CorpusError, match="granularity=token"):
        tokenize_documents(
            documents(TEXTS),
            Slow(),
            cache_dir=tmp_path,
            segmenter=dictionary_segmenter([]),
        )
    assert list(tmp_path.iterdir()) == []


@given(st.text("天子，A 龍İ", max_size=12), st.lists(st.sampled_from("天子aх龍")))
def test_alignment_stays_in_order_and_in_the_text(text: str, pieces: list[str]) -> None:
    """对齐的区间依次向后、互不重叠，也不越出原文。"""
    flat = align_pieces(pieces, text).reshape(-1)
    assert (np.diff(flat) >= 0).all()
    assert flat.min(initial=0) >= 0
    assert flat.max(initial=0) <= len(text)


def test_large_vocabularies_take_four_bytes() -> None:
    """词表到 65,536 才用 uint32。"""
    assert TokenStore.from_ids([[1]], vocab_size=65_535).ids.dtype == np.uint16
    store = TokenStore.from_ids([[65_535, 70_000]])
    assert store.ids.dtype == np.uint32
    assert store.tokens(Piece(0, 0, 2)).tolist() == [65_535, 70_000]


def test_a_store_travels_by_its_path(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """送进别的进程的是路径而非数据；内存中的库照样能送。"""
    store = tokenize_documents(documents(TEXTS * 50), wordpiece, cache_dir=tmp_path)
    data = pickle.dumps(store)
    assert len(data) < 500 < store.num_tokens
    assert np.array_equal(pickle.loads(data).ids, store.ids)
    small = TokenStore.from_ids([[3, 4]], word_ids=[[0, 0]])
    assert pickle.loads(pickle.dumps(small)).ids.tolist() == [3, 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: (folder / "offsets.npy").write_bytes(b""),
        lambda folder: (folder / "num_chars.bin").unlink(),
        lambda folder: (folder / "meta.json").write_text('{"version": 99}'),
    ],
)
def test_a_folder_that_is_no_store_is_refused(
    damage: Callable[[Path], object], wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """缺文件、坏文件、别的版本，都说不是完好的词元库。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert store.path is not None
    damage(store.path)
    with pytest.raises(CorpusError, match="不是完好的词元库"):
        TokenStore.open(store.path)


def test_a_rival_that_finished_first_wins(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """两个进程同时分同一份语料，后写完的用先写完的那个库，不留残余。"""
    move = tokens._move

    def late(temporary: Path, target: Path) -> None:
        monkeypatch.setattr(tokens, "_move", move)
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
        move(temporary, target)

    monkeypatch.setattr(tokens, "_move", late)
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [store.path]
