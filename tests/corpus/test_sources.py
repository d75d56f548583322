"""有名字的语料：样例随时可用，别的按次序去找，拼错了有提示。"""

import subprocess
import sys
from pathlib import Path

import pytest

import companion.corpus as corpus
from companion.corpus.cleaning import clean_documents
from companion.corpus.documents import open_corpus
from companion.corpus.fetching import UPSTREAM
from companion.corpus.sources import (
    NAMED,
    cache_folder,
    list_sources,
    read_cloze,
    read_corpus,
    resolve,
)
from companion.errors import CorpusError


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """没有任何数据的机器。"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("side", ["classical", "modern"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_sample_reads_by_chapter(bare: Path, side: str, split: str) -> None:
    """样例两侧、两个切分都按篇读出，不必联网，且洗不掉一个字。"""
    docs = list(read_corpus(f"sample:{side}", split))
    assert docs
    assert all("：" in doc.source for doc in docs)
    kept, report = clean_documents(docs)
    assert list(kept) == docs
    assert report.documents_out == len(docs)


def test_the_sample_has_aligned_pairs(bare: Path) -> None:
    """句对两侧接起来，与按篇读出的两侧相同。"""
    pairs = list(read_corpus("sample:pairs"))
    for side, texts in (
        ("classical", [pair.text for pair in pairs]),
        ("modern", [pair.target or "" for pair in pairs]),
    ):
        whole = "".join(doc.text for doc in read_corpus(f"sample:{side}"))
        assert "".join(texts) == whole


def test_a_bare_name_reads_both_sides(bare: Path) -> None:
    """不指明侧，两侧的文档都读，先文言后白话。"""
    both = list(read_corpus("sample"))
    sides = [
        doc for side in ("classical", "modern") for doc in read_corpus(f"sample:{side}")
    ]
    assert both == sides
    assert resolve("sample").has_valid


@pytest.mark.parametrize("side", ["classical", "modern"])
def test_cloze_questions_fit_the_family_of_the_side(side: str) -> None:
    """文言侧填空：[MASK] 与答案的字一样多；白话侧续写：题面里没有 [MASK]。"""
    questions = read_cloze(side)
    assert questions
    for question in questions:
        assert question.side == side
        masks = question.text.count("[MASK]")
        assert masks == (len(question.answer) if side == "classical" else 0)
        assert question.answer
        assert question.kind


def test_an_unknown_cloze_side_is_refused() -> None:
    """填空题只有两侧。"""
    with pytest.raises(CorpusError, match="classical 或 modern"):
        read_cloze("pairs")


def test_a_corpus_not_yet_fetched_says_how_to_get_it(bare: Path) -> None:
    """还没取得的语料：说出命令与没有网络时的替代。"""
    with pytest.raises(CorpusError) as caught:
        resolve("tongjian:classical")
    assert "companion corpus fetch tongjian" in caught.value.remedy
    assert "sample" in caught.value.remedy


def test_companion_data_comes_before_the_cache(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMPANION_DATA 里有就用它的，压缩的也认；没有才看缓存。"""
    cached = cache_folder() / "corpora" / "tongjian"
    own = bare / "data" / "tongjian"
    for folder, text in ((cached, "缓存"), (own, "自备")):
        folder.mkdir(parents=True)
        (folder / "train.classical.txt").write_text(text + "\n", encoding="utf-8")
    assert next(read_corpus("tongjian:classical")).text == "缓存"
    monkeypatch.setenv("COMPANION_DATA", str(bare / "data"))
    assert next(read_corpus("tongjian:classical")).text == "自备"
    with pytest.raises(CorpusError, match="没有 valid 切分"):
        read_corpus("tongjian:classical", "valid")
    with pytest.raises(CorpusError, match="没有 tongjian:modern 的训练文本"):
        resolve("tongjian:modern")


@pytest.mark.parametrize("spec", ["", " ", "\t\n"])
def test_an_empty_name_is_refused_everywhere(spec: str) -> None:
    """空的名字不是当前文件夹：一处打开语料，处处拒绝。"""
    for opened in (resolve, read_corpus, open_corpus):
        with pytest.raises(CorpusError, match="是空的"):
            opened(spec)


def test_paths_resolve_to_themselves(bare: Path) -> None:
    """路径照读；路径没有留出集；与名字同名的文件写作 ./sample。"""
    path = bare / "史.txt"
    path.write_text("天子之职", encoding="utf-8")
    for spec in (path, str(path)):
        assert [doc.text for doc in read_corpus(spec)] == ["天子之职"]
    assert not resolve(path).has_valid
    with pytest.raises(CorpusError, match="没有 valid 切分"):
        read_corpus(path, "valid")


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("sampel", "sample"),
        ("tongjian:clasical", "tongjian:classical"),
        ("tongjian:", "tongjian"),
    ],
)
def test_a_misspelt_name_suggests_the_nearest(bare: Path, spec: str, near: str) -> None:
    """拼错的名字给出最像的一个。"""
    if spec == "tongjian:":  # 空的侧就是不指明侧
        with pytest.raises(CorpusError, match="本机还没有语料"):
            resolve(spec)
        return
    with pytest.raises(CorpusError) as caught:
        resolve(spec)
    assert caught.value.remedy == f"是不是 {near}"


def test_a_missing_path_is_named(bare: Path) -> None:
    """既不像名字也不存在的路径，按路径报错。"""
    with pytest.raises(CorpusError, match=r"没有 .*不存在的文件"):
        resolve(bare / "不存在的文件.txt")


def test_every_source_states_its_rights(bare: Path) -> None:
    """目录里每一项都有介绍与权利状况，能变成字典。"""
    listed = list_sources()
    assert {status.name for status in listed} >= {"sample", "tongjian:pairs"}
    for status in listed:
        facts = status.as_dict()
        assert facts["licence"]
        assert facts["available"] == (status.folder is not None)
    assert "权利未澄清" in NAMED["tongjian"].licence
    assert "CC0" in NAMED["sample"].licence


def test_the_commit_is_pinned_in_every_url() -> None:
    """每个地址都钉在同一个提交上，不会跟着分支走。"""
    upstream = UPSTREAM
    assert len(upstream.commit) == 40
    assert len(upstream.files + upstream.archives) >= 3
    for url in upstream.files + upstream.archives:
        assert upstream.commit in url
        assert url.startswith("https://")
    assert len(upstream.paths) == 2 * 292


def test_public_names_resolve_to_objects_not_modules() -> None:
    """`from companion.corpus import 名字` 得到的是函数与类，不会撞上同名的模块。"""
    for name in corpus.__all__:
        assert callable(getattr(corpus, name)) or isinstance(
            getattr(corpus, name), dict
        ), name
    with pytest.raises(AttributeError):
        _ = corpus.没有这个名字


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import companion.corpus` 与读文件都不碰 torch、pyarrow、datasketch、opencc。"""
    code = (
        "import sys, companion.corpus.reading, companion.corpus.fetching;"
        "heavy = {'torch', 'transformers', 'pyarrow', 'datasketch', 'opencc',"
        "'numpy', 'charset_normalizer'};"
        "found = sorted(heavy & set(sys.modules));"
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_real_corpus_resolves_through_companion_data(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """真实语料：`tongjian:modern` 的留出集是 15 卷。"""
    monkeypatch.setenv("COMPANION_DATA", str(shared_data))
    assert len(list(read_corpus("tongjian:modern", "valid"))) == 15
    assert resolve("tongjian:pairs").has_valid
