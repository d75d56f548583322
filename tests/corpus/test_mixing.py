"""几份语料掺在一起：写法、比例、抽取。"""

import pytest

from companion.corpus.document import Document
from companion.corpus.mixing import (
    Source,
    mixed,
    parse_source,
    parse_sources,
    shares_of,
)
from companion.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("史=shiji/:3", Source("史", "shiji/", 3.0)),
        ("诗=poetry.txt", Source("诗", "poetry.txt")),
        ("a.txt:0.5", Source("a.txt", "a.txt", 0.5)),
        ("甲=tongjian:classical:2", Source("甲", "tongjian:classical", 2.0)),
        ("tongjian:pairs", Source("tongjian:pairs", "tongjian:pairs")),
        ("C:\\书\\a.txt:1e-1", Source("C:\\书\\a.txt", "C:\\书\\a.txt", 0.1)),
    ],
)
def test_a_source_is_a_name_a_corpus_and_a_weight(text, expected):
    """名字与权重都可以不写；切分的冒号、盘符不是权重。"""
    assert parse_source(text) == expected


def test_a_path_that_exists_is_that_path(tmp_path, monkeypatch):
    """文件名里有等号、冒号的，整个就是路径。"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "甲=乙:3").write_text("文", encoding="utf-8")
    assert parse_source("甲=乙:3") == Source("甲=乙:3", "甲=乙:3")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a:0", "b:1"], "权重是 0"),
        (["a:-2", "b:1"], "权重是 -2"),
        (["a:1.2.3", "b:1"], "权重是 1.2.3"),
        (["a:1", "b"], "b 没有"),
        (["x=a", "x=b"], "都叫 x"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(texts, message):
    """零与负的权重、有的写有的不写、同名：按名拒绝。"""
    with pytest.raises(ConfigError, match=message):
        parse_sources(texts)


@pytest.mark.parametrize(
    ("weights", "temperature", "expected"),
    [
        ((3.0, 1.0), 1.0, [0.75, 0.25]),
        ((3.0, 1.0), 9.0, [0.75, 0.25]),
        ((None, None), 1.0, [0.9, 0.1]),
        ((None, None), 2.0, [0.75, 0.25]),
        ((None, None), 1e9, [0.5, 0.5]),
    ],
)
def test_shares_follow_the_weights_or_the_sizes(weights, temperature, expected):
    """写了权重就只看权重；没有写就看大小，温度越高越平均。"""
    sources = [Source(str(n), str(n), weight) for n, weight in enumerate(weights)]
    assert shares_of(sources, [900, 100], temperature) == pytest.approx(expected)


def test_a_mixture_has_its_shares_and_repeats_what_runs_out():
    """字数照比例（差不过一篇）；小的读几遍，一遍之内不重复；同一个种子同样的次序。"""
    texts = [
        [Document(f"{name}{n:02}", f"{name}#{n}", name) for n in range(size)]
        for name, size in (("甲", 50), ("乙", 5))
    ]
    chosen = mixed(texts, [0.5, 0.5], 120)
    by_source = {n: [d.id for d in chosen if d.source == n] for n in ("甲", "乙")}
    assert {name: len(ids) for name, ids in by_source.items()} == {"甲": 20, "乙": 20}
    assert len(set(by_source["甲"])) == 20
    assert all(by_source["乙"].count(each) == 4 for each in set(by_source["乙"]))
    assert mixed(texts, [0.5, 0.5], 120) == chosen
    assert mixed(texts, [0.5, 0.5], 120, seed=1) != chosen
