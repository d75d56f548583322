"""互动页的词表：构建时由起步模型的分词器写成一个脚本，不另存一份。

五个起步模型的词表相同，都是一字一词元，特殊词元排在最前；互动页的算法只为这种词表写，
换了样子就在这里停下。
"""

import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def vocabulary_script(tokenizer: Any) -> str:
    """`const playVocabulary = {specials: […], letters: "…"}`，词元依编号排列。

    Raises:
        ExtensionError: 特殊词元不在最前，或有不止一个字的普通词元。
    """
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    count = len(tokenizer.all_special_ids)
    specials, letters = tokens[:count], tokens[count:]
    if set(specials) != set(tokenizer.all_special_tokens):
        raise ExtensionError("互动页：起步模型的特殊词元不在词表的最前")
    if any(len(letter) != 1 for letter in letters):
        raise ExtensionError("互动页：起步模型的词表里有不止一个字的词元")
    data = {"specials": specials, "letters": "".join(letters)}
    return f"const playVocabulary = {json.dumps(data, ensure_ascii=False)};\n"


def _write(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    from companion.checkpoints.loading import load_tokenizer

    target = Path(app.outdir, "_static", "play", "vocabulary.js")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(vocabulary_script(load_tokenizer("starter:bert")), "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """在写页面之前写好。"""
    app.connect("builder-inited", _write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
