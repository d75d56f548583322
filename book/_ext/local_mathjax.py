"""公式离线也能看：把 MathJax 从 sphinx-mathjax-offline 拷进书里，只拷用得到的。

整个包 24 MB，而页面只用一个脚本和它的字体，约 1.6 MB。
"""

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

_SCRIPT = "tex-chtml.js"
_FONTS = "output/chtml/fonts/woff-v2"


def _source() -> Path:
    """包里 MathJax 所在；包名带连字符，不能 import，只能按文件清单找。"""
    for file in metadata.files("sphinx-mathjax-offline") or []:
        if file.name == _SCRIPT:
            return Path(str(file.locate())).parent
    raise ExtensionError('找不到 MathJax：运行 pip install -e ".[book]"')


def _copy(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    source, target = _source(), Path(app.outdir, "_static", "mathjax")
    (target / _FONTS).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / _SCRIPT, target / _SCRIPT)
    shutil.copytree(source / _FONTS, target / _FONTS, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """在写页面之前拷好，页面因此能带上脚本的校验码。"""
    app.connect("builder-inited", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
