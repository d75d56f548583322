"""每一张图都守的规矩：不缺字，不裁切，字不小，设置还原，文件带替代文字。"""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from companion.errors import ConfigError
from companion.plots import (
    AttentionPanel,
    LabelRows,
    PairRows,
    RowsPanel,
    plot_attention,
    plot_attention_grid,
    plot_attention_panels,
    plot_attention_weights,
    plot_curve,
    plot_labels,
    plot_rows,
    plot_schedules,
    plot_tradeoff,
    save_figure,
)
from companion.plots.curves import Line, plot_contrast
from companion.plots.rows import Span
from companion.plots.style import WIDTH, wrap

pytestmark = pytest.mark.filterwarnings("error")

TOKENS = ["[CLS]", "𠮷", "$", "𤣱𠴲", "Ġthe", "▁", "资治通鉴", "−1", "\n", "[SEP]"]
TITLE = "$𠮷$：含罕见字与 $a_{$ 的长标题，要折成两行，masked_lm 不断开"
N = len(TOKENS)
TRI = np.tri(N, dtype=bool)
SCORES = {"domain": {"bits_per_char": 7.0}, "general": {"bits_per_char": 6.5}}
LOG = [
    {"step": s, "tokens": 8192 * s, "loss": 5 - s / 99, "learning_rate": 1e-3 * s}
    for s in range(1, 99)
]


def _labels(columns: int) -> Figure:
    sources = [None, *range(N - 1)]
    rows = LabelRows(
        title=TITLE,
        tokens=TOKENS,
        inputs=TOKENS[::-1],
        labels=[None, *TOKENS[1:]],
        predicted_by=sources,
        special=[token.startswith("[") for token in TOKENS],
        document=[0] * 5 + [1] * 5,
    )
    return plot_labels(rows, columns=columns)


def _pair(columns: int) -> Figure:
    half = [0] * 5 + [1] * 5
    rows = PairRows(
        title=TITLE,
        tokens=TOKENS,
        special=[token.startswith("[") for token in TOKENS],
        document=half,
        hidden=[n in (1, 2, 6) for n in range(N)],
        inputs=["[CLS]", "<extra_id_0>", *TOKENS[3:6], "", *TOKENS[7:]],
        is_mask=[n == 1 for n in range(N - 1)],
        input_document=[0] * 4 + [1] * 5,
        spans=[
            Span((0,), (0,)),
            Span((1, 2), (1,)),
            *(Span((at,), (at - 1,)) for at in range(3, N)),
        ],
        decoder_inputs=["<pad>", *TOKENS[:-1]],
        decoder_visible=[n != 4 for n in range(N)],
        decoder_document=half,
        labels=[None if n == 4 else token for n, token in enumerate(TOKENS)],
        origin=[None if n % 3 else n for n in range(N)],
        scored=[n == 6 for n in range(N)],
    )
    return plot_labels(rows, columns=columns)


def _panels(width: float) -> Figure:
    own = {"queries": TOKENS, "query_documents": [0] * 5 + [1] * 5}
    keys = {"keys": TOKENS[:4], "key_documents": [0, 0, 1, 1]}
    panels = [
        AttentionPanel(title="行多列少", visible=TRI[:, :4], **own, **keys),  # type: ignore[arg-type]
        AttentionPanel(title=TITLE, visible=TRI[:4, :2], queries=TOKENS[:4]),
        AttentionPanel(title="没有词元", visible=TRI),
    ]
    return plot_attention_panels(panels, width=width)


POINTS = [
    {"series": f"峰值 {n}e-4", "level": f"回放 {m}%", "learned": [n / 9, n / 8],
     "forgotten": [n / 7 - m / 100, n / 7]}
    for n in (3, 10) for m in (0, 5, 25)
]  # fmt: skip
ROWS = [
    RowsPanel(TITLE, [[(0, 5)], [(1, 9)], [(2, 2)]], [9, 9, 9]),
    RowsPanel("打包之后", [[(0, 5), (2, 2)], [(1, 9)]], [9, 9]),
]


def _contrast(width: float) -> Figure:
    lines = [
        Line(name=TITLE[:20], x=[1, 2, 3], y=[4.9, 4.5, 4.3], right=True),
        Line(name="做错", x=[1, 2, 3], y=[4.9, float("nan"), 8.1], right=False),
    ]
    return plot_contrast(lines, title=TITLE, xlabel="步", ylabel="损失", width=width)


LOOKS = [
    {"event": "evaluation", "step": n, "tokens": n, "domain": 8 - n / 9, "general": 7.0}
    for n in (0, 4, 9)
]
FIGURES: dict[str, Callable[[], Figure]] = {
    "labels": lambda: _labels(16),
    "labels_phone": lambda: _labels(6),
    "pair": lambda: _pair(16),
    "pair_phone": lambda: _pair(6),
    "attention": lambda: plot_attention(
        TRI, TOKENS, title=TITLE, documents=[0] * 5 + [1] * 5
    ),
    "attention_large": lambda: plot_attention(np.tri(200, dtype=bool)),
    "grid": lambda: plot_attention_grid({"双向": ~(TRI & ~TRI), TITLE: TRI}, TOKENS),
    "grid_phone": lambda: plot_attention_grid(
        {"双向": TRI, TITLE: TRI}, TOKENS, width=4
    ),
    "panels": lambda: _panels(WIDTH),
    "panels_phone": lambda: _panels(4),
    "weights": lambda: plot_attention_weights(
        np.stack([TRI / TRI.sum(1, keepdims=True)] * 3), TOKENS, title=TITLE
    ),
    "schedules": lambda: plot_schedules(
        {"余弦": [0.5, 1, 0.1], TITLE[:20]: [0.5, 1, 1]}, num_warmup=1, title=TITLE
    ),
    "schedules_phone": lambda: plot_schedules(
        {"余弦": [0.5, 1, 0.1]}, num_warmup=1, title=TITLE, width=4
    ),
    "contrast": lambda: _contrast(WIDTH),
    "contrast_phone": lambda: _contrast(4),
    "curve": lambda: plot_curve(
        [*LOG, *LOOKS], title=TITLE, before=SCORES, after=SCORES
    ),
    "curve_phone": lambda: plot_curve(
        [*LOG, {"event": "resume", "step": 9}, *LOOKS], title=TITLE, width=4
    ),
    "tradeoff": lambda: plot_tradeoff(POINTS, title=TITLE),
    "tradeoff_phone": lambda: plot_tradeoff(POINTS, title=TITLE, width=4),
    "rows": lambda: plot_rows(ROWS, title=TITLE),
    "rows_phone": lambda: plot_rows(ROWS, width=4),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    """每张图画一次，各测试共用。"""
    return {name: build() for name, build in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_no_glyph_is_missing_and_text_is_whole_large_and_apart(
    name: str, drawn: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
):
    """罕见字也不缺（警告即错误）；文字都在卡片里，不小于 9 点，两两不相叠。"""
    seen: dict[int, Text] = {}
    draw = Text.draw

    def record(self: Text, renderer: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            seen[id(self)] = self
        draw(self, renderer)

    monkeypatch.setattr(Text, "draw", record)
    figure = drawn[name]
    figure.canvas.draw()
    assert figure.get_size_inches()[0] <= WIDTH + 0.8
    assert len(seen) > 3
    boxes: list[tuple[Text, Any]] = []
    for text in seen.values():
        box = text.get_window_extent()
        assert text.get_size() >= 9, text
        assert -1 <= box.x0 < box.x1 <= figure.bbox.width + 1, text
        assert -1 <= box.y0 < box.y1 <= figure.bbox.height + 1, text
        boxes.append((text, box.padded(-3)))  # 行高里的空白可以相接
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


@pytest.mark.parametrize("name", ["labels", "pair", "curve"])
def test_settings_are_restored(name: str, tmp_path: Path):
    """画图和存图都不改动你的 rcParams，也不登记到 pyplot。"""
    before = dict(matplotlib.rcParams)
    save_figure(FIGURES[name](), tmp_path / "图.svg")
    assert dict(matplotlib.rcParams) == before


def test_png_carries_the_alt_text_and_200_dpi(drawn: dict[str, Figure], tmp_path: Path):
    """替代文字在 PNG 的元数据里，背景是不透明的白。"""
    image = Image.open(save_figure(drawn["labels"], tmp_path / "图.png"))
    assert image.info["Description"] == drawn["labels"].alt  # type: ignore[attr-defined]
    assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_svg_carries_the_alt_text_and_no_fonts(
    drawn: dict[str, Figure], tmp_path: Path
):
    """SVG 自带标题与 role，字形是轮廓，读者的机器上没有字体也不缺字。"""
    path = save_figure(drawn["labels"], tmp_path / "图.svg", alt="自己写的一句话")
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert root.findtext(f"{space}title") == "自己写的一句话"
    assert not list(root.iter(f"{space}text"))
    assert root.find(".//*[@id='label-3']") is not None


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_figure_gives_the_same_bytes(suffix: str, tmp_path: Path):
    """版本、日期、随机编号都不进文件。"""
    one, two = (
        save_figure(_labels(16), tmp_path / f"{n}{suffix}").read_bytes() for n in "ab"
    )
    assert one == two


def test_a_notebook_shows_the_card_with_its_alt_text(drawn: dict[str, Figure]):
    """写出变量名就显示：PNG、96 dpi 下的尺寸和替代文字。"""
    data, metadata = drawn["labels"]._repr_mimebundle_()  # type: ignore[attr-defined]
    assert data["image/png"].startswith(b"\x89PNG")
    width, _ = drawn["labels"].get_size_inches()
    assert metadata["image/png"]["width"] == round(96 * width)
    assert metadata["image/png"]["alt"] == drawn["labels"].alt  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["图.jpg", "图"])
def test_an_unknown_suffix_is_refused(
    name: str, drawn: dict[str, Figure], tmp_path: Path
):
    """只存 PNG 与 SVG。"""
    with pytest.raises(ConfigError, match=r"\.png 或 \.svg"):
        save_figure(drawn["labels"], tmp_path / name)


def test_a_figure_without_alt_text_is_refused(tmp_path: Path):
    """别处来的图没有替代文字，须自己写一句。"""
    with pytest.raises(ConfigError, match="没有替代文字"):
        save_figure(Figure(), tmp_path / "图.png")


def test_an_unwritable_place_is_reported(drawn: dict[str, Figure], tmp_path: Path):
    """文件夹的位置上是一个文件：说出路径，不留半个文件。"""
    (tmp_path / "文件").write_text("占住", encoding="utf-8")
    with pytest.raises(ConfigError, match="写不进"):
        save_figure(drawn["labels"], tmp_path / "文件" / "图.png")
    assert [path.name for path in tmp_path.iterdir()] == ["文件"]


def test_titles_break_between_characters_but_not_inside_words():
    """折行不断开西文词，标点不落在行首。"""
    lines = wrap("继续预训练（masked_lm）与因果语言建模，种子 42。", 1.2, 9).split("\n")
    assert (
        "".join(lines).replace(" ", "")
        == "继续预训练（masked_lm）与因果语言建模，种子42。"
    )
    assert any("（masked_lm）" in line for line in lines)
    assert not any(line[0] in "，。）" for line in lines)
