"""编码与乱码：认得出的读对，认不出的拒绝，并指到字节。"""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus import encoding, reading
from companion.corpus.cleaning import clean_text
from companion.corpus.encoding import decode_lines, detect_encoding, find_garble
from companion.corpus.reading import read_documents
from companion.errors import CorpusError

CLASSICAL = "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。何谓礼？纪纲是也。"
TRADITIONAL = "臣光曰：臣聞天子之職莫大於禮，禮莫大於分，分莫大於名。何謂禮？紀綱是也。"

han_line = st.text(st.sampled_from(CLASSICAL), min_size=24, max_size=80)


def lines_of(data: bytes) -> list[str]:
    """一段字节解码后的各行。"""
    return list(decode_lines(io.BytesIO(data), "语料.txt"))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "带 BOM 的 UTF-8"),
        ("gb18030", "GB18030"),
        ("big5", "Big5"),
        ("utf-16", "带 BOM 的 UTF-16-LE"),
        ("utf-16-le", "UTF-16-LE"),
        ("utf-16-be", "UTF-16-BE"),
        ("utf-32", "带 BOM 的 UTF-32-LE"),
    ],
)
def test_every_promised_encoding_is_recognised(name: str, label: str) -> None:
    """UTF-8、BOM、GB18030、Big5、UTF-16（有无 BOM）由几十个字就能认出。"""
    text = TRADITIONAL if name == "big5" else CLASSICAL
    data = text.encode(name)
    assert detect_encoding(data, "语料.txt", whole=True).label == label
    assert lines_of(data) == [text]


@pytest.mark.parametrize("name", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@given(body=st.lists(han_line, min_size=1, max_size=5))
def test_chinese_text_survives_any_encoding(name: str, body: list[str]) -> None:
    """常用汉字写成任何一种编码，读回来一字不差。"""
    assert lines_of("\n".join(body).encode(name)) == body


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_clean_text_survives_utf_8(text: str) -> None:
    """任何没有乱码的 Unicode 文本，存成 UTF-8 都原样读回；乱码则拒绝，不会悄悄变样。"""
    data = ("天" + text).encode()
    if find_garble("天" + text) is None:
        assert lines_of(data) == ["天" + text]
    else:
        with pytest.raises(CorpusError, match="乱码"):
            lines_of(data)


@given(
    cuts=st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1, max_size=8),
    chunk=st.integers(1, 9),
)
def test_lines_do_not_depend_on_chunk_boundaries(cuts: list[str], chunk: int) -> None:
    r"""块切在汉字中间、`\r` 与 `\n` 之间都不影响断行。"""
    words = [CLASSICAL[:6] + str(index) for index in range(len(cuts))]
    text = "".join(word + cut for word, cut in zip(words, cuts, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PREFIX_BYTES", 64 + chunk)
        patch.setattr(encoding, "CHUNK_BYTES", chunk)
        assert lines_of(("天" * 30 + "\n" + text).encode())[1:] == words


def test_only_real_newlines_break_lines() -> None:
    """U+2028、换页符与 U+0085 不断行：断了会把一条 JSON 切成两截。"""
    assert lines_of("甲\u2028乙\x0c丙\x85丁".encode()) == ["甲\u2028乙\x0c丙\x85丁"]


def test_a_broken_byte_is_reported_with_its_offset() -> None:
    """解码中断时报出文件里的字节位置，而不是块里的。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PREFIX_BYTES", 64)
        patch.setattr(encoding, "CHUNK_BYTES", 16)
        with pytest.raises(CorpusError, match="第 301 字节") as caught:
            lines_of(b"a" + ("天" * 100).encode() + b"\xff\xfe\xff\xfe" + b"z" * 40)
    assert "UTF-8" in caught.value.found


def test_the_encoding_of_an_appended_file_is_named() -> None:
    """UTF-8 之后接着一份 GB18030：指出接缝的字节，并说后半像 GB18030。"""
    head = (CLASSICAL * 3 + "\n").encode()
    with pytest.raises(CorpusError, match=f"第 {len(head)} 字节") as caught:
        lines_of(head + (CLASSICAL * 3).encode("gb18030"))
    assert "像是 GB18030" in caught.value.found


def test_a_file_cut_inside_a_character_is_named() -> None:
    """文件断在一个字的中间，多半是没下完，照实说。"""
    data = CLASSICAL.encode()[:-1]
    with pytest.raises(CorpusError, match=f"在第 {len(data) - 2} 字节断在一个字的中间"):
        lines_of(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\x01\x02\x03\x00\xff" * 40, "二进制"),
        (b"PK\x03\x04" + bytes(60), "ZIP"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (bytes(range(128, 160)) * 8, "认不出"),
    ],
)
def test_binary_files_are_refused_by_kind(data: bytes, words: str) -> None:
    """不是文本的文件说得出是什么，不会读成一堆怪字。"""
    with pytest.raises(CorpusError, match=words):
        lines_of(data)


def test_western_text_in_latin_1_is_refused_with_the_likely_encoding() -> None:
    """不在承诺之列的编码不猜着读，而是说出最像哪种。"""
    text = "Où est l'été ? Là-bas, près de la forêt, où naît la rosée. " * 5
    with pytest.raises(CorpusError, match="认不出"):
        lines_of(text.encode("latin-1"))


GARBLED = {  # 名目：(前面的好字, 乱码, 原来的编码)
    "kuncopy": ("", "锟斤拷锟斤拷", "GBK"),
    "replacement": ("臣光", "\ufffd\ufffd", "GB18030 或 Big5"),
    "replaced gbk": (
        "",
        "\ufffd" + "礼莫大于分，分莫大于名。".encode().decode("gb18030", "replace"),
        "UTF-8 的字节按 GBK",
    ),
    "latin accents": ("caf", "\u00c3\u00a9", "UTF-8"),
    "latin chinese": ("", "中文".encode().decode("latin-1"), "UTF-8"),
    "gbk as latin": ("", "中国人民".encode("gbk").decode("latin-1"), "GB18030"),
    "prose as latin": ("", "臣光曰：从之，".encode("gbk").decode("latin-1"), "GB18030"),
    "utf-8 as gbk": ("", "的中国人，".encode().decode("gbk", "ignore"), "UTF-8"),
}


@pytest.mark.parametrize(("good", "bad", "cause"), GARBLED.values(), ids=GARBLED.keys())
def test_mojibake_is_refused_with_offset_and_origin(
    good: str, bad: str, cause: str
) -> None:
    """常见的乱码都拒绝，附字节位置与原来的编码。"""
    head = "臣光曰：\n天子之职，" + good
    with pytest.raises(CorpusError) as caught:
        lines_of((head + bad + "。").encode())
    assert "乱码" in caught.value.found
    assert cause in caught.value.found
    assert f"第 {len(head.encode())} 字节" in caught.value.found


def test_a_nul_is_refused_wherever_it_stands() -> None:
    """NUL 在开头一段里就是二进制；在后文里也报出字节。"""
    with pytest.raises(CorpusError, match="二进制文件，第 3 字节为 NUL"):
        lines_of("甲\x00乙".encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PREFIX_BYTES", 30)
        with pytest.raises(CorpusError, match=r"第 301 字节处有乱码.*NUL"):
            lines_of(("甲" * 100 + "\n\x00").encode())


def test_the_offset_of_mojibake_counts_bytes_of_the_file() -> None:
    """字节位置按文件自己的编码算，BOM 也算在内。"""
    text = "天地玄黄，宇宙洪荒。" * 20 + "锟斤拷"
    for name, bom in (("utf-8", 0), ("gb18030", 0), ("utf-8-sig", 3), ("utf-16", 2)):
        plain = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(name, name)
        offset = bom + len(text[:-3].encode(plain))
        with pytest.raises(CorpusError, match=f"第 {offset} 字节"):
            lines_of(text.encode(name))
        with pytest.MonkeyPatch.context() as patch:  # 块切在字的中间也一样
            patch.setattr(encoding, "PREFIX_BYTES", 64)
            patch.setattr(encoding, "CHUNK_BYTES", 7)
            with pytest.raises(CorpusError, match=f"第 {offset} 字节"):
                lines_of(text.encode(name))


@pytest.mark.parametrize(
    "text",
    [
        "涓涓细流，汇成江河；浜上人家，银鈥。",
        "马克·吐温说：“价格是 5£，约 6€。”",
        "CAFÉ\u00a0! Ñandú, Ångström, façade, naïve — déjà vu… «où»",
        "鍦字见于《集韵》，音地。",
        "锛孉",  # 倒转只得一个逗号，证据太少
        "São João, coração, IRMÃO",
        "省略号打成了······六个点。",
        "密码××××××请保管。",
        "§§§§§§ 分隔 ±±±±±± 线 ÷×÷×÷×÷×",
        "德文多出ÄÖÜäöüß七个字母",
        "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ",
    ],
)
def test_rare_but_honest_text_is_not_mistaken_for_mojibake(text: str) -> None:
    """指纹字本身是字：要能倒转出通顺的原文才算乱码。"""
    assert find_garble(text) is None


@pytest.mark.parametrize("bad", [bad for _, bad, _ in GARBLED.values()])
def test_a_remedy_that_names_clean_is_one(bad: str) -> None:
    """消息说“先用 clean”的乱码，清洗之后确实读得进去。"""
    text = "清晨下了一场雨，院里的水缸满了。" * 3 + "\n" + bad + "。"
    garble = find_garble(text)
    assert garble is not None
    if "corpus clean" in garble.remedy:
        cleaned = clean_text(text)
        assert cleaned is not None
        assert find_garble(cleaned) is None
        assert "□" in cleaned


@pytest.mark.parametrize(
    ("name", "label"), [("gb18030", "GB18030"), ("utf-8", "UTF-8"), ("cp950", "Big5")]
)
def test_a_few_bad_bytes_are_located_and_can_be_replaced(
    name: str, label: str, tmp_path: Path
) -> None:
    """坏了两个字节的小说不是二进制：指出位置，`replace` 换成 �，其余一字不差。"""
    line = TRADITIONAL if name == "cp950" else CLASSICAL
    good = (line + "\r\n").encode(name) * 60
    at = 10 * len((line + "\r\n").encode(name))
    data = good[:at] + b"\x80\xff" + good[at:]
    with pytest.raises(CorpusError, match=f"第 {at} 字节（80 ff") as caught:
        lines_of(data)
    assert label in caught.value.found
    assert "--errors replace" in caught.value.remedy
    read = list(
        decode_lines(io.BytesIO(data), "x", refuse_garble=False, errors="replace")
    )
    assert len(read) == 60
    assert "\ufffd" in read[10]
    assert [each.replace("\ufffd", "") for each in read] == [line] * 60


def test_a_single_endless_line_becomes_documents(tmp_path: Path) -> None:
    """只有一行的大文件在句末断成几篇，一字不丢；乱码的字节位置照样说得准。"""
    path = tmp_path / "一行.txt"
    text = "".join(f"第{n}日，清晨下了一场雨。" for n in range(400))
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_DOCUMENT_CHARS", 1000)
        patch.setattr(encoding, "PREFIX_BYTES", 700)
        patch.setattr(encoding, "CHUNK_BYTES", 700)
        docs = [doc.text for doc in read_documents(path)]
        assert "".join(docs) == text
        assert all(len(doc) <= 1000 and doc.endswith("。") for doc in docs)
        path.write_text(text + "锟斤拷", encoding="utf-8")
        with pytest.raises(CorpusError, match=f"第 {len(text.encode())} 字节"):
            list(read_documents(path))


def test_garbled_text_may_pass_when_cleaning_will_see_to_it(tmp_path: Path) -> None:
    """明说放行时不拒绝，留给清洗。"""
    path = tmp_path / "坏.txt"
    path.write_text("天子\ufffd之职。", encoding="utf-8")
    docs = list(read_documents(path, refuse_garble=False))
    assert [doc.text for doc in docs] == ["天子\ufffd之职。"]


def test_an_endless_line_is_refused_rather_than_filling_memory() -> None:
    """没有换行的超长文本报错，而不是把内存吃光。"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "MAX_LINE_CHARS", 1000)
        patch.setattr(encoding, "PREFIX_BYTES", 300)
        patch.setattr(encoding, "CHUNK_BYTES", 300)
        with pytest.raises(CorpusError, match="第 2 行超过 1000 字"):
            lines_of(("甲\n" + "天" * 5000).encode())
