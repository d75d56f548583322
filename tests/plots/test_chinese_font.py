"""中文字体：字从哪里来，缺了怎么办，画完之后设置是否还原。"""

import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from companion.errors import ConfigError
from companion.plots import font


def test_common_text_and_the_minus_sign_have_glyphs():
    """常用字、全角标点、数学负号、字节级分词器的记号都有字形。"""
    assert font.missing_glyphs("资治通鉴，。：；？！“”‘’…—《》−×→↓▁Ġ#[MASK]é😀") == ""


def test_every_han_character_of_unicode_1_has_a_glyph():
    """U+4E00–U+9FA5 的 20902 个字一个不缺。"""
    block = "".join(map(chr, range(0x4E00, 0x9FA6)))
    assert font.missing_glyphs(block) == ""


def test_missing_glyphs_are_listed_once_and_in_order():
    """缺字各报一次，先后不变，换行不算。"""
    assert font.missing_glyphs("大𪚥小𠮷\n大𪚥") == "𪚥𠮷"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("字", "字"),
        ("𠮷", "U+\n20BB7"),
        ("大𠮷", "大〓"),
        ("〓", "〓"),
        ("\n", "↵"),
        ("a b", "a␣b"),
        ("", "∅"),
        ("\u200b", "U+\n200B"),
        ("\ud800", "U+\nD800"),
        ("\x00", "U+\n0000"),
    ],
)
def test_unprintable_tokens_become_something_to_read(token: str, shown: str):
    """空白、控制符、缺字在格子里都看得见。"""
    assert font.visible(token) == shown


@given(st.text(st.characters(), max_size=8))
def test_whatever_is_shown_has_glyphs(token: str):
    """任何字符串换成可见的样子之后都不空，也不缺字。"""
    shown = font.visible(token)
    assert shown
    assert font.missing_glyphs(shown) == ""


def test_matplotlib_draws_what_visible_returns_without_a_warning():
    """真画一遍：负号、公式、中文、缺字都不引出 Glyph missing 的警告。"""
    with warnings.catch_warnings(), font.chinese_font():
        warnings.simplefilter("error")
        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(title=r"损失 $-\log p(x_t \mid x_{<t})$，−1")
        axes.plot([-2, 3], [-1e-3, 1])
        axes.set_xlabel(font.visible("大𠮷Ġ▁"))
        figure.canvas.draw()


def test_matplotlib_warns_about_the_raw_character():
    """反例：不经替换的“𠮷”确实会引出警告，可见上面的测试真能失败。"""
    with font.chinese_font():
        figure = Figure()
        FigureCanvasAgg(figure)
        figure.text(0.5, 0.5, "𠮷")
        with pytest.warns(UserWarning, match="Glyph"):
            figure.canvas.draw()


def test_settings_are_restored_after_the_with_block():
    """离开 with 之后 rcParams 与原来一样，出错也一样。"""
    before = dict(matplotlib.rcParams)
    with font.chinese_font():
        assert matplotlib.rcParams["font.family"] == font.FONT_FAMILY
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(KeyError), font.chinese_font():
        raise KeyError
    assert dict(matplotlib.rcParams) == before


def test_explicit_call_changes_the_settings_but_not_the_backend():
    """use_chinese_font 一直有效，后端不变；字体只登记一次。"""
    from matplotlib.font_manager import fontManager

    backend = matplotlib.rcParams._get("backend")  # 直接取下标会触发后端的选择
    with matplotlib.rc_context():
        font.use_chinese_font()
        font.use_chinese_font()
        assert matplotlib.rcParams["font.family"] == font.FONT_FAMILY
        assert matplotlib.rcParams["axes.unicode_minus"] is True
    assert matplotlib.rcParams._get("backend") == backend
    files = [entry.fname for entry in fontManager.ttflist]
    assert files.count(str(font.font_path())) == 1


def test_a_lost_font_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch):
    """没有 zhplot 时，说出缺什么、怎么装。"""
    monkeypatch.setattr(font, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install zhplot"):
        font.font_path()


def test_importing_the_package_loads_no_matplotlib_and_no_zhplot():
    """行与表不需要 matplotlib；画图也不导入会改全局设置的 zhplot。"""
    code = (
        "import sys\n"
        "from companion.plots import LabelRows, alt_text, labels_table\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from companion.plots import plot_labels\n"
        "import matplotlib\n"
        "plot_labels(LabelRows('题', ['字'], ['字'], [None], [None], [False], [0]))\n"
        "assert matplotlib.rcParams['font.family'] == ['sans-serif']\n"
        "assert 'zhplot' not in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(font.__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root)
