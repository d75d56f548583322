"""章回的标题：两种排版的小说都一章一篇，一个字不少。"""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.corpus import read_documents
from companion.corpus.document import find_headings, is_heading, write_chapters
from companion.errors import CorpusError

CHAPTERS = {
    "第一回　风雪夜归人": ["　　那一年冬天，雪下得早。", "　　第二回的事没人知道。"],
    "第二回 人去": ["　　第三回见到他，是在城外。", "　　“第四章写完了？”他问。"],
    "第十二章": ["　　城门开了。"],
}  # fmt: skip


def novel(between: str) -> str:
    """一部小说；`between` 是段与段之间的空白。"""
    lines = [line for title, body in CHAPTERS.items() for line in (title, *body)]
    return between.join(lines) + "\n"


@pytest.mark.parametrize("between", ["\n\n", "\n", "\r\n\r\n\r\n"])
@pytest.mark.parametrize("encoding", ["gb18030", "utf-8"])
def test_a_chapter_is_a_document_however_the_lines_are_spaced(
    between: str, encoding: str, tmp_path: Path
) -> None:
    """段间空一行的、一个空行也没有的，都分成三章；文字连标题一个不少。"""
    path = tmp_path / "小说.txt"
    path.write_bytes(novel(between).encode(encoding))
    whole = "".join(each.text for each in read_documents(path))
    assert [each.title for each in write_chapters(path)] == list(CHAPTERS)
    documents = list(read_documents(path))
    assert len(documents) == 3
    assert "".join(each.text for each in documents) == whole
    for document, (title, body) in zip(documents, CHAPTERS.items(), strict=True):
        assert document.text.startswith(title)
        assert body[-1].strip() in document.text
        assert document.source == f"小说.txt：{title}"


@given(st.lists(st.sampled_from([*CHAPTERS, "", "　　正文。"]), max_size=12))
def test_headings_are_lines_of_their_own_with_text_between(lines: list[str]) -> None:
    """行号递增，指的就是那一行；两个标题之间总有正文。"""
    found = find_headings(lines)
    for each in found:
        assert lines[each.line - 1] == each.title
    for left, right in pairwise(found):
        assert "　　正文。" in lines[left.line : right.line - 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("第3章", True),
        ("第一百二十回 归去来", True),
        ("楔子", True),
        ("卷三 边关", True),
        ("第三天，他走了", False),
        ("第一章写的是他的少年时代，写得很长很长，比别的章都长", False),
        ("序幕拉开了。", False),
    ],
)
def test_what_is_a_heading(text: str, said: bool) -> None:
    """短的、不以句号收尾的、开头是第几章的才是。"""
    assert is_heading(text) is said


def test_what_has_no_chapters_is_refused(tmp_path: Path) -> None:
    """没有标题、已有篇目表、不是文本：说出来，什么也不写。"""
    path = tmp_path / "散文.txt"
    path.write_text("一段。\n\n又一段。\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="只有 0 行像章回的标题"):
        write_chapters(path)
    assert not (tmp_path / "chapters.tsv").exists()
    path.write_text(novel("\n"), encoding="utf-8")
    write_chapters(path)
    with pytest.raises(CorpusError, match="--overwrite"):
        write_chapters(path)
    assert len(write_chapters(path, overwrite=True)) == 3
    (tmp_path / "a.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="不是文本文件"):
        write_chapters(tmp_path / "a.jsonl", overwrite=True)
