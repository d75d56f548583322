"""书里“词元、输入、标签”的表，由真正的数据整理器在构建时算出。

    ```{label-table} masked_lm
    :tokenizer: starter:bert
    :seed: 3
    狡兔死，走狗烹
    ```

正文一行是一个文档；给几行，就打包成一行。
"""

from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# 填充、−100 与特殊词元里的 < > [ ] 不能让 Markdown 当成别的东西
_IGNORED = "−100"


class LabelTable(SphinxDirective):
    """一个样本在训练目标眼里的样子。"""

    has_content = True
    required_arguments = 1
    option_spec = {  # noqa: RUF012 - 上游如此声明
        "tokenizer": directives.unchanged_required,
        "granularity": directives.unchanged,
        "probability": float,
        "seed": directives.nonnegative_int,
        "caption": directives.unchanged_required,
        "name": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """算出样本，写成 Markdown 的表。"""
        from companion.checkpoints.loading import load_model_options, load_tokenizer
        from companion.objectives import get_objective
        from companion.plots.rows import PairRows
        from companion.show import example_rows

        options: dict[str, Any] = {}
        if "granularity" in self.options:
            options["granularity"] = self.options["granularity"]
        if "probability" in self.options:
            options["mlm_probability"] = self.options["probability"]
        name, goal = self.options["tokenizer"], get_objective(self.arguments[0])
        rows = example_rows(
            goal.key,
            list(self.content),
            load_tokenizer(name),
            self.options.get("seed", 0),
            model_options=load_model_options(name, goal),
            **options,
        )
        labels = [_IGNORED if label is None else label for label in rows.labels]
        if isinstance(rows, PairRows):
            shown = [
                word if seen else ""
                for word, seen in zip(
                    rows.decoder_inputs, rows.decoder_visible, strict=True
                )
            ]
            # 两条行装在同一个张量里的（GLM 的 A、B 两部分），列号接着数
            one_row = rows.decoder_columns is not None
            first, second = (f"`input_ids`，{side}" for side in rows.sides)
            if not one_row:
                first, second = "`input_ids`", "`decoder_input_ids`"
            lines = [
                *self._table([(first, rows.inputs)], rows.input_columns, named=True),
                "",
                *self._table(
                    [(second, shown), ("`labels`", labels)], rows.decoder_columns
                ),
            ]
        else:
            lines = self._table(
                [("`input_ids`", rows.inputs), ("`labels`", labels)], named=True
            )
        box = nodes.container()
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children

    def _table(
        self,
        rows: list[tuple[str, list[str]]],
        columns: list[int] | None = None,
        *,
        named: bool = False,
    ) -> list[str]:
        """几行等长的格子写成一张 Markdown 的表；有名字的那张带标题。"""
        width = len(rows[0][1])
        caption = f" {self.options['caption']}" if named else ""
        return [
            f"```{{table}}{caption}",
            *(
                [f":name: {self.options['name']}"]
                if named and "name" in self.options
                else []
            ),
            ":class: label-table",
            "",
            _line("列", [str(i) for i in columns or range(width)], code=False),
            "|".join(["", *[":-:"] * (width + 1), ""]),
            *(_line(title, cells) for title, cells in rows),
            "```",
        ]


def _line(title: str, cells: list[str], *, code: bool = True) -> str:
    cells = [cell.replace("|", "\\|") for cell in cells]  # 竖线隔开格子
    shown = [
        f"`{cell}`" if code and cell[:1] in tuple("<[") else cell for cell in cells
    ]
    return "|".join(["", title, *shown, ""])


def setup(app: Sphinx) -> dict[str, Any]:
    """登记指令。"""
    app.add_directive("label-table", LabelTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
