"""读语料：各种格式读出同样的文档，坏文件说得清坏在哪里。"""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus import reading
from companion.corpus.cleaning import clean_documents, clean_text
from companion.corpus.document import Document, join_lines
from companion.corpus.reading import read_documents, read_pairs, write_documents
from companion.corpus.sources import resolve
from companion.errors import CorpusError

bodies = st.lists(
    st.text(st.sampled_from("天地玄黄宇宙洪荒，。ab 1"), min_size=1).filter(
        lambda text: text.strip() == text and "  " not in text
    ),
    min_size=1,
    max_size=6,
)


def write(folder: Path, name: str, text: str) -> Path:
    """写一份 UTF-8 文件，后缀为 .gz 时压缩。"""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8", newline="")
    return path


def texts(path: Path) -> list[str]:
    """一份语料各篇的正文。"""
    return [doc.text for doc in read_documents(path)]


def refused(path: Path) -> CorpusError:
    """读它必须失败；返回的错误三要素齐全。"""
    with pytest.raises(CorpusError) as caught:
        list(read_documents(path))
    error = caught.value
    assert error.found
    assert error.expected
    assert error.remedy
    return error


def test_blank_lines_separate_documents_and_lines_join(tmp_path: Path) -> None:
    """空行分开文档，连续的行接成一篇；只有空白的行也算空行。"""
    path = write(tmp_path, "史.txt", "　　初命晋大夫\n为诸侯。\n \t\n\n臣光曰\r\n")
    docs = list(read_documents(path))
    assert docs == [
        Document("初命晋大夫为诸侯。", "史#1", "史.txt"),
        Document("臣光曰", "史#2", "史.txt"),
    ]


def test_latin_lines_join_with_a_space_and_chinese_lines_without() -> None:
    """两边都是西文才补空格；有一边是汉字或全角标点就直接相连。"""
    assert join_lines(["continued", "pretraining", "是", "GPT", "“x”", "y"]) == (
        "continued pretraining是GPT“x”y"
    )


@pytest.mark.parametrize(
    "suffix", [".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet"]
)
@given(body=bodies)
def test_every_format_gives_back_the_documents(
    suffix: str, body: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """单语文档写成任何一种格式，读出来都一样。"""
    path = tmp_path_factory.mktemp("语料") / f"史{suffix}"
    write_documents((Document(text, "x#1", "x") for text in body), path)
    assert texts(path) == body
    assert [doc.id for doc in read_documents(path)] == [
        f"史#{index}" for index in range(1, len(body) + 1)
    ]


@pytest.mark.parametrize(
    "suffix", [".jsonl", ".tsv", ".tsv.gz", ".jsonl.gz", ".parquet"]
)
def test_every_pair_format_gives_back_the_pairs(suffix: str, tmp_path: Path) -> None:
    """句对写成任何一种能放下的格式，读出来都一样。"""
    pairs = [
        Document("帝从之。", "a#1", "a", "皇帝“同意”了。"),
        Document("善", "a#2", "a", "好"),
    ]
    path = tmp_path / f"对{suffix}"
    write_documents(pairs, path)
    read = [(doc.text, doc.target) for doc in read_documents(path)]
    assert read == [(doc.text, doc.target) for doc in pairs]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("春雨来得早\n水缸满了\n", "春雨来得早\n水缸满了"),
        ("def f(x):\r\n    return 1  \r\n", "def f(x):\n    return 1"),
        ("# 题目\n\n- 第一\n- 第二\n", "# 题目\n\n- 第一\n- 第二"),
        ("　　段首\r　　次段", "段首\n次段"),
        ("| 甲 | 乙 |\n|---|---|\n", "| 甲 | 乙 |\n|---|---|"),
    ],
)
def test_line_breaks_of_verse_and_code_survive(
    text: str, kept: str, tmp_path: Path
) -> None:
    """一条记录之内的换行是正文：读、洗、写、再读都在；要接起来，有一条规则。"""
    path = write(tmp_path, "a.jsonl", json.dumps({"text": text}) + "\n")
    assert texts(path) == [kept]
    cleaned, _ = clean_documents(read_documents(path))
    write_documents(cleaned, tmp_path / "b.parquet")
    assert texts(tmp_path / "b.parquet") == [kept]
    joined = clean_text(kept, ["one_line"])
    assert joined == join_lines(kept.split("\n"))


def test_line_breaks_of_a_pair_are_joined(tmp_path: Path) -> None:
    """句对的一侧是一句话，换行接起来。"""
    pair = {"source": "甲\n乙", "target": "c\r\nd"}
    path = write(tmp_path, "a.jsonl", json.dumps(pair) + "\n")
    [doc] = read_documents(path)
    assert (doc.text, doc.target) == ("甲乙", "c d")


def test_chapters_beside_a_text_make_the_documents(tmp_path: Path) -> None:
    """篇目表的一行是一个文档，列的多少随意，只看与文件名相符的切分。"""
    write(
        tmp_path,
        "chapters.tsv",
        "split\tjuan\tchapter\tfirst_line\tn_lines\n"
        "valid\t9\t别篇\t1\t1\ntrain\t1\t周纪一\t1\t2\ntrain\t2\t周纪二\t3\t1\n",
    )
    path = write(tmp_path, "train.classical.txt", "甲\n乙\n丙\n")
    docs = list(read_documents(path))
    assert [(doc.text, doc.source) for doc in docs] == [
        ("甲乙", "train.classical.txt：周纪一"),
        ("丙", "train.classical.txt：周纪二"),
    ]
    assert docs[0].id == "train.classical#1"


def test_lines_outside_every_chapter_are_kept(tmp_path: Path) -> None:
    """篇目表没提到的行不丢，照空行分成没有篇名的文档。"""
    write(tmp_path, "chapters.tsv", "split\tfirst_line\tn_lines\ntrain\t2\t3\n")
    path = write(tmp_path, "train.txt", "序\n正\n文\n终\n跋\n\n附\n")
    assert texts(path) == ["序", "正文终", "跋", "附"]


def test_a_chapters_table_of_another_text_is_refused(tmp_path: Path) -> None:
    """篇目表只管到一小半的行，多半是别的文本的：不悄悄把其余的照空行分篇。"""
    write(tmp_path, "chapters.tsv", "split\tfirst_line\tn_lines\ntrain\t1\t1\n")
    error = refused(write(tmp_path, "train.txt", "甲\n乙\n丙\n"))
    assert "2 行不在篇目表里" in error.found
    assert "移走" in error.remedy


def test_a_sources_table_keeps_one_document_per_line(tmp_path: Path) -> None:
    """`sources.tsv` 的一行是一个来源，其中各行互不相干，不接成一篇。"""
    write(
        tmp_path,
        "sources.tsv",
        "split\tsource\tfirst_line\tn_lines\ntrain\t维基\t1\t2\n",
    )
    docs = list(read_documents(write(tmp_path, "train.txt", "甲\n乙\n")))
    assert [(doc.text, doc.source) for doc in docs] == [
        ("甲", "train.txt：维基"),
        ("乙", "train.txt：维基"),
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("split\tfirst_line\n", "缺 n_lines"),
        ("split\tfirst_line\tn_lines\ntrain\t0\t1\n", "first_line 是“0”"),
        ("split\tfirst_line\tn_lines\ntrain\t1\n", "第 2 行有 2 列"),
        ("split\tfirst_line\tn_lines\ntrain\t1\t2\ntrain\t2\t1\n", "重叠"),
        ("split\tfirst_line\tn_lines\ntrain\t1\t9\n", "只有 2 行"),
        ("", "缺 split"),
    ],
)
def test_a_wrong_chapters_table_is_refused(
    tmp_path: Path, table: str, words: str
) -> None:
    """篇目表缺列、越界、重叠或与文件对不上，都说得清。"""
    write(tmp_path, "chapters.tsv", table)
    assert words in refused(write(tmp_path, "train.txt", "甲\n乙\n")).found


def test_a_folder_is_read_in_path_order(tmp_path: Path) -> None:
    """文件夹连同子文件夹按路径次序读，隐藏文件与别的文件不理，编号带上路径。"""
    write(tmp_path, "b.txt", "乙")
    write(tmp_path, "a/x.jsonl", '{"text": "甲"}\n')
    write(tmp_path, ".隐藏/c.txt", "不读")
    write(tmp_path, "README.md", "不读")
    docs = list(read_documents(tmp_path))
    assert [(doc.text, doc.id) for doc in docs] == [("甲", "a/x#1"), ("乙", "b#1")]


def test_a_folder_with_train_and_valid_is_refused(tmp_path: Path) -> None:
    """留出集不会随文件夹混进训练集。"""
    write(tmp_path, "train.txt", "甲")
    write(tmp_path, "valid.txt", "乙")
    assert "既有 train 又有 valid" in refused(tmp_path).found


def test_long_text_without_blank_lines_is_cut_at_line_ends(tmp_path: Path) -> None:
    """没有空行的长文满额就在行末断开，一个字也不丢。"""
    path = write(tmp_path, "长.txt", "天地玄黄\n" * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_DOCUMENT_CHARS", 100)
        assert texts(path) == ["天地玄黄" * 25] * 4


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """文件大十倍，读的时候占的内存不变：边读边给，不整个装进来。"""
    peaks: list[int] = []
    for factor in (1, 10):
        path = write(
            tmp_path, f"{factor}.txt.gz", ("天地玄黄" * 50 + "\n\n") * 4000 * factor
        )
        tracemalloc.start()
        count = sum(1 for _ in read_documents(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == 4000 * factor
    assert peaks[1] < 1.5 * peaks[0]


def test_aligned_files_become_pairs(tmp_path: Path) -> None:
    """按行对齐的两份文本成为句对。"""
    left = write(tmp_path, "train.classical.txt", "帝从之。\n善。\n")
    right = write(tmp_path, "train.modern.txt", "皇帝同意了。\n好。\n")
    docs = list(read_pairs(left, right))
    assert [(doc.text, doc.target, doc.id) for doc in docs] == [
        ("帝从之。", "皇帝同意了。", "train.pairs#1"),
        ("善。", "好。", "train.pairs#2"),
    ]


@pytest.mark.parametrize(
    ("right", "words"), [("好。\n", "到第 1 行就完了"), ("好。\n\n", "第 2 行是空的")]
)
def test_misaligned_files_are_refused(tmp_path: Path, right: str, words: str) -> None:
    """两侧行数不同，或一侧空着，都指出行号。"""
    left = write(tmp_path, "a.txt", "善。\n可。\n")
    with pytest.raises(CorpusError, match=words):
        list(read_pairs(left, write(tmp_path, "b.txt", right)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("空.txt", b"", "没有正文"),
        ("白.txt", b" \n\t\n\n", "没有正文"),
        ("空.jsonl", b"\n", "没有正文"),
        ("断.txt.gz", gzip.compress("天地玄黄".encode() * 9999)[:-20], "解压到一半"),
        ("假.txt.gz", b"plain text", "内容却不是 gzip"),
        ("坏.txt.gz", b"\x1f\x8b\x08" + bytes(30), "解压到一半"),
        ("坏.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', "第 3 行不是合法的 JSON"),
        ("列.jsonl", b'["a"]\n', "第 1 行是 list"),
        ("缺.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "第 2 行的字段是 body"),
        ("空值.jsonl", b'{"text": null}\n', "第 1 行的 text 是 NoneType"),
        ("半对.jsonl", b'{"source": "a", "target": " "}\n', "target 是空的"),
        ("代理.jsonl", b'{"text": "\\ud83d"}\n', "落单的代理码位"),
        ("深.jsonl", b"[" * 100_000 + b"\n", "第 1 行的 JSON 无法解析"),
        ("大.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "第 1 行的 JSON 无法解析"),
        ("一列.tsv", b"a\tb\nc\n", "第 2 行有 1 列"),
        ("三列.tsv", b"a\tb\n\nc\td\te\n", "第 3 行有 3 列"),
        ("半行.tsv", b"a\t\n", "第 1 行有一列是空的"),
        ("坏.parquet", b"PAR1 not really", "不是完整的 Parquet"),
        ("空.parquet", b"", "不是完整的 Parquet"),
        ("表.csv", b"a,b\n", "后缀不认识"),
        ("无后缀", b"a", "后缀不认识"),
    ],
)
def test_bad_files_are_refused_with_the_place(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """每种坏文件都是 `CorpusError`，说清发现了什么、应当如何、怎么办。"""
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(path)
    assert words in error.found
    assert name in error.found


def test_a_parquet_without_the_column_names_its_columns(tmp_path: Path) -> None:
    """缺列时列出现有的列；空值与乱码指出行号。"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "表.parquet"
    pq.write_table(pa.table({"content": ["甲"], "id": [1]}), path)
    assert "content、id" in refused(path).found
    pq.write_table(pa.table({"text": ["甲", None]}), path)
    assert "第 2 行的 text 是 NoneType" in refused(path).found
    pq.write_table(pa.table({"text": ["甲", "天锟斤拷"]}), path)
    assert "第 2 行第 1 字处有乱码" in refused(path).found


def test_a_missing_path_suggests_the_nearest(tmp_path: Path) -> None:
    """拼错的路径给出最像的一个。"""
    write(tmp_path, "train.txt", "甲")
    error = refused(tmp_path / "trian.txt")
    assert str(tmp_path / "train.txt") in error.remedy


def test_an_empty_folder_says_what_it_holds(tmp_path: Path) -> None:
    """没有语料的文件夹报出里面有什么。"""
    assert "没有语料" in refused(tmp_path).found
    write(tmp_path, "论文.docx", "x")
    assert "论文.docx" in refused(tmp_path).found


def test_special_files_and_unreadable_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """设备不是语料；没有权限读的文件说明白，不抛系统异常。"""
    with pytest.raises(CorpusError, match="不是普通文件"):
        read_documents("/dev/null")
    path = write(tmp_path, "密.txt", "甲")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "读不了" in refused(path).found


def test_errors_of_the_path_are_raised_at_the_call(tmp_path: Path) -> None:
    """路径不对当场就报，不等到取第一篇。"""
    with pytest.raises(CorpusError):
        read_documents(tmp_path / "没有.txt")


def test_writing_is_atomic_and_never_overwrites(tmp_path: Path) -> None:
    """已有的文件不动；半路出错不留下任何东西；明说才替换。"""
    path = write(tmp_path, "a.txt", "原文\n")
    doc = Document("新文", "x#1", "x")
    with pytest.raises(CorpusError, match="已经存在"):
        write_documents([doc], path)

    def broken() -> object:
        yield doc
        raise CorpusError(found="坏了", expected="好的", remedy="修好")

    with pytest.raises(CorpusError, match="坏了"):
        write_documents(broken(), path, overwrite=True)  # type: ignore[arg-type]
    assert path.read_text("utf-8") == "原文\n"
    with pytest.raises(CorpusError, match="没有文档可写"):
        write_documents([], tmp_path / "b.parquet")
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    assert write_documents([doc, doc], path, overwrite=True) == 2
    assert path.read_text("utf-8") == "新文\n\n新文\n"


def test_writing_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    """句对放不进 .txt，单语与制表符放不进 .tsv，文件夹不是文件名。"""
    pair = Document("a", "x#1", "x", "b")
    for doc, name in [
        (pair, "a.txt"),
        (Document("a", "x#1", "x"), "a.tsv"),
        (Document("a\tc", "x#1", "x", "b"), "a.tsv"),
    ]:
        with pytest.raises(CorpusError, match="放不下"):
            write_documents([doc], tmp_path / name)
    with pytest.raises(CorpusError, match="不同类"):
        write_documents([pair, Document("a", "x#1", "x")], tmp_path / "a.parquet")
    (tmp_path / "夹.txt").mkdir()
    with pytest.raises(CorpusError, match="是文件夹"):
        write_documents([pair], tmp_path / "夹.txt")
    with pytest.raises(CorpusError, match="写不了"):
        write_documents([pair], tmp_path / "没有" / "a.jsonl")
    assert not list(tmp_path.glob("*a*"))


def test_gzip_output_is_reproducible(tmp_path: Path) -> None:
    """同样的文档两次写成 .gz，逐字节相同。"""
    docs = [Document("天地玄黄", "x#1", "x")]
    for name in ("a.txt.gz", "b.txt.gz"):
        write_documents(docs, tmp_path / name)
    assert (tmp_path / "a.txt.gz").read_bytes() == (tmp_path / "b.txt.gz").read_bytes()


def test_the_real_corpus_has_a_document_per_juan(shared_data: Path) -> None:
    """真实语料：训练集 262 卷，字数与 SOURCES.md §4 的记录相同。"""
    docs = list(read_documents(shared_data / "tongjian" / "train.classical.txt.gz"))
    assert len(docs) == 262
    assert sum(doc.num_chars for doc in docs) == 2_663_325
    assert docs[0].source.endswith("周纪一")


def test_linked_folders_are_read_and_other_files_listed(tmp_path: Path) -> None:
    """连到别处的文件夹也读，连回自己的不死循环；不认识的文件列出来。"""
    folder, real = tmp_path / "卷", tmp_path / "别处"
    folder.mkdir()
    real.mkdir()
    (folder / "甲.txt").write_text("甲乙丙丁。", encoding="utf-8")
    (real / "乙.txt").write_text("庚辛壬癸。", encoding="utf-8")
    (folder / "连").symlink_to(real)
    (real / "回").symlink_to(folder)
    for name in ("b.md", "c.csv", "d.docx", ".藏"):
        (folder / name).write_text("丙", encoding="utf-8")
    texts = {doc.text for doc in read_documents(folder)}
    assert texts == {"甲乙丙丁。", "庚辛壬癸。"}
    resolved = resolve(folder)
    assert [path.name for path in resolved.skipped] == ["b.md", "c.csv", "d.docx"]
    assert "跳过 3 个文件：b.md、c.csv、d.docx" in resolved.notices[0]
    assert resolve(real / "乙.txt").notices == []


def test_a_file_name_in_another_encoding_is_written_in_unicode(tmp_path: Path) -> None:
    """文件名是 GB18030 的字节：编号、出处与消息里都是认得出的字，写得进 JSON。"""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + "章回.txt".encode("gbk")))
    path.write_text("天子之职。", encoding="utf-8")
    [doc] = read_documents(path)
    assert (doc.id, doc.source) == ("章回#1", "章回.txt")
    assert [each.id for each in read_documents(tmp_path)] == ["章回#1"]
    path.write_text("", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"章回\.txt"):
        list(read_documents(path))


def test_a_long_record_becomes_several_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """一行 JSON 里的长文也在句末断开，一字不丢；句对不断。"""
    monkeypatch.setattr(reading, "MAX_DOCUMENT_CHARS", 20)
    path = tmp_path / "长.jsonl"
    text = "清晨下了一场雨。" * 9
    path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    docs = list(read_documents(path))
    assert "".join(doc.text for doc in docs) == text
    assert [doc.id for doc in docs] == [f"长#{n}" for n in range(1, len(docs) + 1)]
    pair = {"source": text, "target": text}
    path.write_text(json.dumps(pair) + "\n", encoding="utf-8")
    assert len(list(read_documents(path))) == 1
