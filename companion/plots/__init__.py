"""图：标签对齐、注意力可见范围、训练曲线；全书只在这里设定中文字体。

这里的函数只收普通的行（列表、字典、numpy 数组），不认识模型，也不认识分词器。名字在
第一次用到时才装载，因此 `import companion.plots` 不会带进 matplotlib。
"""

from typing import TYPE_CHECKING

from companion.lazy import on_first_use

if TYPE_CHECKING:
    from companion.plots.attention import (
        plot_attention,
        plot_attention_grid,
        plot_attention_panels,
        plot_attention_weights,
    )
    from companion.plots.curves import plot_curve, plot_schedules
    from companion.plots.font import chinese_font, missing_glyphs, use_chinese_font
    from companion.plots.labels import plot_labels
    from companion.plots.packing import RowsPanel, plot_rows
    from companion.plots.rows import AttentionPanel, LabelRows, PairRows
    from companion.plots.style import save_figure
    from companion.plots.texts import alt_text, labels_table
    from companion.plots.tradeoff import plot_tradeoff

_HOMES = {
    "AttentionPanel": "rows",
    "LabelRows": "rows",
    "PairRows": "rows",
    "RowsPanel": "packing",
    "alt_text": "texts",
    "chinese_font": "font",
    "labels_table": "texts",
    "missing_glyphs": "font",
    "plot_attention": "attention",
    "plot_attention_grid": "attention",
    "plot_attention_panels": "attention",
    "plot_attention_weights": "attention",
    "plot_curve": "curves",
    "plot_labels": "labels",
    "plot_rows": "packing",
    "plot_schedules": "curves",
    "plot_tradeoff": "tradeoff",
    "save_figure": "style",
    "use_chinese_font": "font",
}

__all__ = [
    "AttentionPanel",
    "LabelRows",
    "PairRows",
    "RowsPanel",
    "alt_text",
    "chinese_font",
    "labels_table",
    "missing_glyphs",
    "plot_attention",
    "plot_attention_grid",
    "plot_attention_panels",
    "plot_attention_weights",
    "plot_curve",
    "plot_labels",
    "plot_rows",
    "plot_schedules",
    "plot_tradeoff",
    "save_figure",
    "use_chinese_font",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
