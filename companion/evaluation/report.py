"""报告：一页纸说清一次继续预训练学到了什么、忘了什么，写成文件。

`report.html` 自成一体：样式内联，图是 data URI，内容安全策略禁止一切网络请求；手机上
不用左右滑动，深色模式与打印都照顾到。`report.md` 内容相同，供代码仓库与终端阅读。
"""

from contextlib import suppress
from pathlib import Path

from companion.errors import EvaluationError
from companion.evaluation.card import ReportCard
from companion.evaluation.page import render_html, render_markdown

HTML_FILE, MARKDOWN_FILE, CURVE_FILE = "report.html", "report.md", "curve.png"


def write_report(card: ReportCard, directory: str | Path) -> list[Path]:
    """写出 report.html 与 report.md；有曲线而文件夹里没有 curve.png 时，也写一份。

    Args:
        card: 报告卡。
        directory: 文件夹，不在就新建。

    Returns:
        写出的文件。

    Raises:
        EvaluationError: 文件夹写不进去。
    """
    folder = Path(directory)
    contents = {
        HTML_FILE: render_html(card).encode(),
        MARKDOWN_FILE: render_markdown(card).encode(),
    }
    if card.curve is not None and not (folder / CURVE_FILE).exists():
        contents[CURVE_FILE] = card.curve
    drafts = {name: folder / f".{name}.new" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            drafts[name].write_bytes(content)  # 写好再改名，不留半份
            drafts[name].replace(folder / name)
    except OSError as error:
        with suppress(OSError):  # 文件夹本身就不对时，草稿也无从删起
            for draft in drafts.values():
                draft.unlink(missing_ok=True)
        raise EvaluationError(
            found=f"报告写不进 {folder}（{error.strerror or error}）",
            expected="一个可写的文件夹",
            remedy="换一个文件夹，或腾出磁盘空间",
        ) from error
    return [folder / name for name in contents]
