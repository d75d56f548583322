"""让书内搜索认得中文：索引与查询两侧都用“单字加相邻两字”，不靠词典。

Sphinx 自带的中文搜索在建索引时用 jieba 切词，浏览器里却不切：“预训练”“继续预训练”一个
也搜不到。这里两侧用同一条规则，于是凡在正文里连着出现的字都搜得到：

    正文“因果语言”  →  因 果 语 言 因果 果语 语言
    查询“因果语言”  →  因果 果语 语言        （几段都要出现在同一页）
    查询“曰”        →  曰

西文整词入索引，不取词干：`input_ids`、`bits_per_char` 照原样搜。纯数字浏览器从不去查，
两侧都在前面添一条下划线，“−100”于是也搜得到。

书里一个概念只用一个词，读者却会用别的词来搜：`SYNONYMS` 是这些词与讲它的页。
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.search import SearchLanguage

# 汉字：基本区与扩展区，加上“〇”
_HAN = r"\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_RUNS = re.compile(rf"([{_HAN}]+)|([0-9A-Za-z_\u00b5-\u024f\u0370-\u03ff]+)")

# 与 split_query 同一规则，给浏览器用；Array.from 按字而不按 UTF-16 单元切
_SPLITTER = r"""
var splitQuery = (query) => {
  const han = "\\u3007\\u3400-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3134f}";
  const latin = "0-9A-Za-z_\\u00b5-\\u024f\\u0370-\\u03ff";
  const terms = [];
  for (const run of query.matchAll(new RegExp(`([${han}]+)|([${latin}]+)`, "gu"))) {
    const letters = Array.from(run[0]);
    if (/^\d+$/.test(run[0])) terms.push("_" + run[0]);
    else if (run[2] !== undefined || letters.length === 1) terms.push(run[0]);
    else for (let i = 0; i + 1 < letters.length; i++)
      terms.push(letters[i] + letters[i + 1]);
  }
  return terms;
};
"""

SYNONYMS = {
    "book/01_families": "选型 模型选择",
    "book/02_corpus": "数据清洗 脏数据 预处理 长文档 截断",
    "book/04_masked_lm": "整词 完形填空",
    "book/06_prefix_lm": "position_ids attention_mask",
    "book/07_masked_family": "整词 知识蒸馏",
    "book/08_gain_and_forgetting": "配比 过拟合 能力下降",
    "book/09_adapting_with_less": "缺字 生僻字 扩词表 QLoRA PEFT",
    "book/15_mixture": "混合语料 多少词元 采样比例 数据混合 epoch 轮数 重复几遍",
    "book/16_tuning": "学习率取多少 调参 超参数 学习率搜索 早停 early stopping 收敛",
    "book/17_beyond_bits": "记忆 memorization 隐私 版权 benchmark 基准测试 lm-eval",
    "book/10_fast_and_large": "多卡 多机 OOM 爆显存 加速 DDP FSDP",
    "book/12_your_corpus": "断点续训 恢复训练 费用",
    "book/14_from_base_to_use": "量化 部署 Ollama RAG SFT 对齐 模型合并",
    "book/many_cards": "多卡 多机 集群 分布式 DDP FSDP DeepSpeed ZeRO accelerate",
    "book/faq": "早停 断点续训 OOM 爆显存 过拟合 复读 调参 RAG 长文档 截断 混合语料 "
    "怎么知道学会了没有 不会聊天了 要多少数据 什么时候停止训练 几份语料混合 怎么清洗 "
    "预处理内存不足 分词爆内存 打包串文档 生成停不下来 一直生成不停 初始损失太高 "
    "第二轮训练 第二轮损失高 增量语料再训练 基准测试下降",
}
"""页 → 读者会搜、而书里不这样叫的词。"""

_STEMMER = "var Stemmer = function () { this.stemWord = (word) => word; };"


def split_query(text: str) -> list[str]:
    """查询的各段，全部要命中。

    >>> split_query("继续预训练 BERT")
    ['继续', '续预', '预训', '训练', 'BERT']
    >>> split_query("−100")
    ['_100']
    """
    terms: list[str] = []
    for han, latin in _RUNS.findall(text):
        if re.fullmatch("[0-9]+", latin):
            terms.append(f"_{latin}")
        elif latin or len(han) == 1:
            terms.append(latin or han)
        else:
            terms.extend(han[i : i + 2] for i in range(len(han) - 1))
    return terms


def split_text(text: str) -> list[str]:
    """正文的索引项：查询的各段，加上每个单字。

    >>> split_text("预训练")
    ['预训', '训练', '预', '训', '练']
    """
    singles = [letter for han, _ in _RUNS.findall(text) for letter in han]
    return split_query(text) + singles


class BigramChinese(SearchLanguage):
    """两字一段的中文索引。"""

    lang = "zh"
    language_name = "Chinese"
    stopwords: set[str] = set()  # noqa: RUF012 - 上游如此声明
    js_splitter_code = _SPLITTER
    js_stemmer_code = _STEMMER

    def split(self, input: str) -> list[str]:
        """正文 → 索引项。"""
        return split_text(input)

    def stem(self, word: str) -> str:
        """不取词干，只转小写，与浏览器一侧相同。"""
        return word.lower()

    def word_filter(self, stemmed_word: str) -> bool:
        """每一段都入索引。"""
        return bool(stemmed_word)


def add_synonyms(app: Sphinx, doctree: nodes.document) -> None:
    """把这一页的别名写成 `<meta name="keywords">`，Sphinx 会把它们收进索引。"""
    words = SYNONYMS.get(app.env.docname)
    if words:
        terms = ", ".join(dict.fromkeys(split_text(words)))
        doctree.insert(0, nodes.meta(name="keywords", content=terms))


def setup(app: Sphinx) -> dict[str, Any]:
    """替换 Sphinx 的中文搜索，收进别名。"""
    app.add_search_language(BigramChinese)
    app.connect("doctree-read", add_synonyms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
