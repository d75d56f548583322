"""分词：库里的每一篇就是分词器的输出；缓存只认内容；读不了的语料按名拒绝。"""

import errno
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_tokenizers import KINDS, TEXTS, TOKENIZERS, Slow, build, documents, whole
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from companion.checkpoints.tiny import tiny_tokenizer
from companion.corpus import tokenization, tokens
from companion.corpus.document import join_lines
from companion.corpus.tokenization import (
    cut_texts,
    decoded,
    keeps_line_breaks,
    text_ids,
    token_spans,
)
from companion.corpus.tokens import (
    Piece,
    TokenStore,
    tokenize_documents,
    tokenizer_fingerprint,
)
from companion.corpus.words import dictionary_segmenter
from companion.errors import CorpusError


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_is_what_the_tokenizer_says(kind: str, tmp_path: Path) -> None:
    """库里的每一篇就是分词器对它的输出，空文档也占一篇；写不出换行的，先接成一行。"""
    tokenizer = TOKENIZERS[kind]
    store = tokenize_documents(documents(TEXTS), tokenizer, cache_dir=tmp_path)
    assert len(store) == len(TEXTS)
    for number, text in enumerate(TEXTS):
        if not keeps_line_breaks(tokenizer):
            text = join_lines(text.split("\n")) if "\n" in text else text
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert store.tokens(whole(store, number)).tolist() == expected
    assert store.tokens(whole(store, 0)).dtype == np.int64
    assert store.ids.dtype == np.uint16


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel"])
def test_special_tokens_spelled_in_the_text_are_text(kind: str, tmp_path: Path) -> None:
    """语料里的 “[MASK]” 不会变成掩码词元，分词器自己的设置也不因此改变。"""
    tokenizer = build(kind)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    store = tokenize_documents(documents(["天[MASK]子"]), tokenizer, cache_dir=tmp_path)
    assert tokenizer.mask_token_id not in np.asarray(store.ids)
    assert tokenizer.mask_token_id in tokenizer("天[MASK]子")["input_ids"]
    tokenizer = build(kind)
    tokenize_documents(documents(["天子"]), tokenizer, cache_dir=tmp_path)
    assert not tokenizer.backend_tokenizer.encode_special_tokens


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "flaubert"])
def test_registered_tokens_stay_whole_and_inserted_ones_do_not(kind: str) -> None:
    """用户登记的整个编码、区间恰是它的文字；角色与哨兵拆开；解码写得回来。"""
    tokenizer = tiny_tokenizer(kind)
    names = ["[注]", "<人名>", "<extra_id_0>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    role = tokenizer.eos_token or tokenizer.sep_token
    text = f"[注]天下<人名>之士{role}<extra_id_0>"
    ids, spans = next(token_spans([text], tokenizer))
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    for name in ("[注]", "<人名>"):
        low, high = spans[tokens.index(name)]
        assert text[low:high] == name
    assert role not in tokens
    assert "<extra_id_0>" not in tokens
    assert text_ids(text, tokenizer) == ids.tolist()
    written = decoded([*ids.tolist(), tokenizer.convert_tokens_to_ids(role)], tokenizer)
    assert "[注]" in written
    assert "<人名>" in written


def test_tokens_registered_later_are_known_at_once() -> None:
    """先切过一次，再登记：第二次就整个编码，别的分词器不受影响。"""
    tokenizer, other = tiny_tokenizer("bert"), tiny_tokenizer("bert")
    for name in ("[注]", "[疏]"):
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [name]}, replace_extra_special_tokens=False
        )
        number = tokenizer.convert_tokens_to_ids(name)
        assert number in text_ids(f"天{name}下", tokenizer)
        assert len(text_ids(f"天{name}下", other)) > 3


def test_long_documents_are_cut_at_line_ends(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """长文切成小段再分词，仍是一篇文档，编号与不切时相同。"""
    text = "天子之职，莫大于礼。礼莫大于分\n" * 9 + "臣光曰" * 30
    expected = wordpiece(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(tokenization, "CHUNK_CHARACTERS", 40)
    chunks = [chunk for batch in cut_texts([text]) for chunk in batch.texts]
    assert max(map(len, chunks)) <= 40
    assert all(chunk.endswith(("\n", "。")) for chunk in chunks[:4])
    store = tokenize_documents(documents([text, "天"]), wordpiece, cache_dir=tmp_path)
    assert store.tokens(whole(store, 0)).tolist() == expected
    assert store.lengths.tolist() == [len(expected), 1]


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


def contents(store: TokenStore) -> list[Any]:
    """一个库的全部内容，与它存成几个文件无关。"""
    columns = store.ids, store.num_chars, store.word_start, store.offsets
    return [np.asarray(column).tolist() for column in columns] + [store.meta]


def test_two_processes_give_the_same_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """分给两个进程，库的内容与一个进程的相同，连同词界与账目。"""
    monkeypatch.setattr(tokens, "PART_CHARACTERS", 100)
    texts = [text * n for n in range(1, 7) for text in TEXTS]
    one, two = (
        tokenize_documents(
            documents(texts),
            TOKENIZERS["wordpiece"],
            cache_dir=tmp_path / str(num_proc),
            segmenter=dictionary_segmenter(["天子", "大于"]),
            num_proc=num_proc,
        )
        for num_proc in (1, 2)
    )
    assert two.path is not None
    assert len(list(two.path.glob("*.arrow"))) == 2
    assert contents(one) == contents(two)


def test_an_error_in_another_process_comes_back_whole(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """切词器改动了文字：不论在哪个进程里发现，错误都原样回来。"""
    monkeypatch.setattr(tokens, "PART_CHARACTERS", 9)
    for num_proc in (1, 2):
        with pytest.raises(CorpusError, match="切词"):
            tokenize_documents(
                documents(["天子" * 20] * 2),
                wordpiece,
                cache_dir=tmp_path,
                segmenter=lambda text: [text + "多"],
                num_proc=num_proc,
            )
    assert not list(tmp_path.glob("**/*.arrow"))


def test_the_cache_opens_the_same_store(
    wordpiece: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """第二次不再分词，打开的是同一个文件夹；截断与填充的设置不算改变。"""
    first = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    wordpiece.backend_tokenizer.enable_truncation(3)
    wordpiece.backend_tokenizer.enable_padding(length=9)

    def refuse(*_: object) -> object:
        raise AssertionError("不该再分词")

    monkeypatch.setattr(tokenization, "token_spans", refuse)
    for again in (documents(TEXTS), lambda: iter(documents(TEXTS))):
        store = tokenize_documents(again, wordpiece, cache_dir=tmp_path)
        assert store.path == first.path
        assert contents(store) == contents(first)


def test_a_change_of_text_tokenizer_or_words_misses_the_cache(tmp_path: Path) -> None:
    """换一个字、挪一处文档分界、换分词器或切词器，都另起一个库。"""
    base = ["天子", "曰"]
    cases = [
        (texts, TOKENIZERS["wordpiece"], None)
        for texts in (base, ["天子曰"], ["天子", "名"], ["天子", "曰", ""])
    ]
    cases.append((base, TOKENIZERS["bytelevel"], None))
    cases += [
        (base, TOKENIZERS["wordpiece"], dictionary_segmenter([word])) for word in "天地"
    ]
    paths = {
        tokenize_documents(
            documents(texts), tokenizer, cache_dir=tmp_path, segmenter=segmenter
        ).path
        for texts, tokenizer, segmenter in cases
    }
    assert len(paths) == len(cases)


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


def truncate(folder: Path) -> None:
    """数据文件短了一截。"""
    [data] = folder.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:-64])


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda folder: (folder / "dataset_info.json").write_text("[]"),
        lambda folder: next(folder.glob("*.arrow")).write_bytes(b""),
        lambda folder: next(folder.glob("*.arrow")).unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_store_is_refused_and_built_again(
    damage: Callable[[Path], object], wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """缺文件、坏文件：打开时说不是完好的词元库，再次分词时自动重做。"""
    store = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    expected = contents(store)
    assert store.path is not None
    damage(store.path)
    with pytest.raises(CorpusError, match="不是完好的词元库"):
        TokenStore.open(store.path)
    again = tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    assert contents(again) == expected


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(
    kind: type[BaseException],
    wordpiece: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """中途 Ctrl-C 或磁盘满了，不留半个库；磁盘的错误说出文件夹与原因。"""
    space = [OSError(errno.ENOSPC, "No space left on device")]
    error = space if kind is OSError else [kind()]

    def stop(*_: object) -> object:
        assert list(tmp_path.glob("**/*.incomplete"))  # 正写到一半
        raise error[0]

    monkeypatch.setattr(tokenization, "token_spans", stop)
    with pytest.raises((KeyboardInterrupt, CorpusError)) as caught:
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=tmp_path)
    if kind is OSError:
        assert "No space left" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.glob("**/*.arrow"))
    assert not list(tmp_path.glob("**/*.incomplete"))


def test_a_file_in_place_of_the_folder_is_reported(
    wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """cache_dir 其实是个文件，错误说出它。"""
    path = tmp_path / "cache"
    path.write_text("")
    with pytest.raises(CorpusError, match="写不进"):
        tokenize_documents(documents(TEXTS), wordpiece, cache_dir=path)


def prepared(folder: Path) -> tuple[Path | None, int]:
    store = tokenize_documents(
        documents(["天子之职" * 9_000] * 9), TOKENIZERS["wordpiece"], cache_dir=folder
    )
    return store.path, store.num_tokens


def test_rivals_prepare_the_same_store(tmp_path: Path) -> None:
    """两个进程同时分同一份语料，都得到那一个完好的库。"""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        one, two = pool.map(prepared, [tmp_path] * 2)
    assert one == two
    assert len(list(tmp_path.glob("**/*.arrow"))) == 1


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


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\u3000"]])
def test_a_corpus_without_tokens_is_refused(
    texts: list[str], wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """没有文档、空文档、只有空白，都说明没有一个词元。"""
    with pytest.raises(CorpusError, match="没有一个词元"):
        tokenize_documents(documents(texts), wordpiece, cache_dir=tmp_path)


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
    assert contents(pickle.loads(data)) == contents(store)
    small = TokenStore.from_ids([[3, 4]], word_ids=[[0, 0]])
    assert contents(pickle.loads(pickle.dumps(small))) == contents(small)


def test_a_column_is_sliced_across_its_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """库存成几段，切片跨过段的边界也与整条的相同；顺着读也是同样的编号。"""
    monkeypatch.setattr(tokens, "PART_CHARACTERS", 9)
    texts = ["天子之职" * 8, "大于", "礼" * 9]
    store = tokenize_documents(
        documents(texts), TOKENIZERS["wordpiece"], cache_dir=tmp_path, num_proc=2
    )
    ids, border = np.asarray(store.ids), int(store.offsets[1])
    assert len(store.ids.parts) > 1
    for span in (slice(border - 3, border + 3), slice(0, None), slice(5, 5)):
        assert np.array_equal(store.ids[span], ids[span])
    blocks = list(store.blocks())
    assert blocks[0][0] == 0
    assert np.array_equal(np.concatenate([part for _, part in blocks]), ids)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("bytelevel", True), ("wordpiece", False), ("sentencepiece", False)],
)
def test_line_breaks_are_kept_where_the_tokenizer_can_write_them(
    kind: str, kept: bool, tmp_path: Path
) -> None:
    """字节级的分词器学得到换行；写不出换行的，与先接成一行的相同。"""
    tokenizer = TOKENIZERS[kind]
    assert keeps_line_breaks(tokenizer) == kept
    store = tokenize_documents(
        documents(["天子\n之职"]), tokenizer, cache_dir=tmp_path / "行"
    )
    joined = tokenize_documents(
        documents(["天子之职"]), tokenizer, cache_dir=tmp_path / "接"
    )
    same = np.asarray(store.ids).tolist() == np.asarray(joined.ids).tolist()
    assert same != kept


def test_without_a_folder_the_same_store_stays_in_memory(tmp_path: Path) -> None:
    """不给文件夹：各列与存下的相同，不写文件；没有一个词元照样拒绝。"""
    tokenizer = TOKENIZERS["wordpiece"]
    words = dictionary_segmenter(("狡兔",))
    given = documents(TEXTS)
    stored = tokenize_documents(given, tokenizer, cache_dir=tmp_path, segmenter=words)
    kept = tokenize_documents(given, tokenizer, segmenter=words)
    assert (stored.path is None, kept.path is None) == (False, True)
    for name in ("ids", "num_chars", "word_start", "lengths"):
        mine, theirs = (np.asarray(getattr(each, name)) for each in (kept, stored))
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert kept.meta == stored.meta
    for empty in ([], documents([""])):
        with pytest.raises(CorpusError, match="没有一个词元"):
            tokenize_documents(empty, tokenizer)
