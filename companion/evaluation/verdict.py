"""裁断：把数字与区间翻译成一句老实话。

先看区间，再看大小：

| 情形 | 说法 |
|---|---|
| 95% 区间含 0，或行数不足、没有区间 | 看不出差别 |
| 区间不含 0，而变化不到 0.5% | 几乎没变 |
| 0.5%–2% | 一点 |
| 2%–10% | （不加程度） |
| 10% 以上 | 很多 |

留出集有一成以上的字见于训练文字时，以上都不说：那是背诵。程度按每字比特数的相对变化算。界线是为读起来方便定的，不是定律；数字与区间总写在旁边。

两次评估目标相同（指纹相同）时逐行配对相减。因果模型的分词器不同而文字相同时，每字比特
数仍可比，但行与行对不上，只好各自重抽，区间较宽，并且附一句说明：被考的字是不是相同，
各有几个。其余的拒绝比较。
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from companion.errors import EvaluationError
from companion.evaluation.bootstrap import Difference, bootstrap_difference
from companion.evaluation.scoring import Evaluation, Scores
from companion.objectives import get_objective

NEGLIGIBLE, SLIGHT, LARGE = 0.005, 0.02, 0.10
"""每字比特数相对变化的三条界线。"""

SETS = {"domain": "领域", "general": "通用"}
"""两份留出集的键与名字。"""

SEEN_A_LITTLE, SEEN_MUCH = 0.01, 0.10
"""留出集里见于训练文字的字占到这么多：要说一声；分数不作数。"""

SAME_TEXT_TOLERANCE = 0.01
"""因果模型换了分词器时，被考的字数至多差这么多（各文档的首个词元不考，长短不一）。"""

Direction = Literal["better", "worse", "same"]


@dataclass(frozen=True)
class Comparison:
    """同一份留出集上，之前与之后。"""

    before: Scores
    after: Scores
    difference: Difference
    """每字比特数，之前减之后；为正就是学好了。"""
    note: str = ""
    """比较的限制；没有则为空。"""

    @property
    def relative_change(self) -> float:
        """每字比特数的相对变化，(之后 − 之前) / 之前；为负就是学好了。"""
        return -self.difference.value / self.before.bits_per_char

    @property
    def relative_interval(self) -> tuple[float, float] | None:
        """相对变化的 95% 区间 (下, 上)。"""
        if self.difference.interval is None:
            return None
        low, high = self.difference.interval
        return -high / self.before.bits_per_char, -low / self.before.bits_per_char

    @property
    def direction(self) -> Direction:
        """变好、变坏，还是看不出。"""
        interval = self.difference.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return "same"
        return "better" if self.difference.value > 0 else "worse"


@dataclass(frozen=True)
class Verdict:
    """裁断。"""

    headline: str
    """一句话。"""
    sentences: list[str]
    """领域、通用各一句，连同数字。"""
    advice: list[str]
    """下一步可以做什么；没有什么要做则为空。"""
    void: bool = False
    """领域留出集见于训练文字，变化不作数。"""

    def __str__(self) -> str:
        return "".join([self.headline, *self.sentences, *self.advice])


def compare_scores(before: Evaluation, after: Evaluation) -> Comparison:
    """两次评估相减。

    Raises:
        EvaluationError: 目标、文字或被考的字不同，不可比。
    """
    if before.objective != after.objective:
        raise _incomparable(
            f"之前评的是 {before.objective}，之后评的是 {after.objective}",
            "同一个训练目标",
            "用同一个 objective 各评一次",
        )
    paired = before.fingerprint == after.fingerprint
    note = "" if paired else _unpaired_note(before, after)
    difference = bootstrap_difference(
        (before.bits, before.chars), (after.bits, after.chars), paired=paired
    )
    return Comparison(before.scores, after.scores, difference, note)


def _unpaired_note(before: Evaluation, after: Evaluation) -> str:
    """评估目标不同时，能比的说明限制，不能比的报错。"""
    if before.text_fingerprint != after.text_fingerprint:
        raise _incomparable(
            "两次评估的文字不同",
            "同一份留出集",
            "用同一份语料、同一个 max_chars 各评一次",
        )
    old, new = before.scores.num_chars, after.scores.num_chars
    causal = get_objective(before.objective).left_to_right
    if causal and abs(old - new) > SAME_TEXT_TOLERANCE * max(old, new):
        raise _incomparable(
            f"文字相同，之前考了 {old} 字，之后考了 {new} 字",
            f"被考的字数相差不超过 {SAME_TEXT_TOLERANCE:.0%}",
            "看看哪个分词器丢字或写成 [UNK]；文档很短时，换一份文档较长的留出集",
        )
    if not causal and before.coverage != after.coverage:
        raise _incomparable(
            "两次评估考的字不同",
            "同一个分词器、同样的 seed 与 block_size，考同样的字",
            "用同一个分词器各评一次；除 causal_lm 外，换了分词器就不可比",
        )
    same = before.coverage == after.coverage
    examined = "相同" if same else f"之前 {old:,} 个、之后 {new:,} 个"
    return (
        f"两次评估的目标不同（分词器、词元编号或行长不同），被考的字{examined}："
        "只有每字比特数可比，每词元损失与准确率不可比；行与行无法配对，区间较宽。"
    )


def judge(
    domain: Comparison,
    general: Comparison | None = None,
    seen: Mapping[str, float] | None = None,
) -> Verdict:
    """由数字与区间得出裁断。

    Args:
        domain: 领域留出集上。
        general: 通用留出集上。
        seen: "domain" 与 "general" → 留出集里也见于训练文字的字占的比例，[0, 1]。
    """
    shares = {"domain": 0.0, "general": 0.0, **(seen or {})}
    sentences = [_sentence("领域上", domain)]
    void = shares["domain"] >= SEEN_MUCH
    headline = (
        void_headline(shares["domain"]) if void else f"领域上{_domain_phrase(domain)}"
    )
    if general is None:
        headline += "；没有给通用留出集，不知道忘了什么。"
    elif shares["general"] >= SEEN_MUCH:
        headline += "；通用留出集也见于训练文字，看不出忘了什么。"
        sentences.append(_sentence("通用上", general))
    else:
        headline += f"，通用上{_general_phrase(general)}。"
        sentences.append(_sentence("通用上", general))
    sentences += [
        f"{name}留出集有 {shares[key]:.1%} 的字在训练文字里（20 字以上连续相同）："
        "这一部分量的是背诵。"
        for key, name in SETS.items()
        if shares[key] >= SEEN_A_LITTLE
    ]
    advice = _advice(domain, general)
    if void:
        advice = ["换一份训练文字里没有的留出集，或先删去语料里的近似重复，再训再评。"]
    return Verdict(headline, sentences, advice, void)


def void_headline(share: float) -> str:
    """领域留出集有这么多（[0, 1]）的字见于训练文字，不作数。"""
    return f"领域留出集有 {share:.0%} 的字就在训练文字里，这次的变化不能算学到"


def _domain_phrase(comparison: Comparison) -> str:
    match comparison.direction:
        case "same":
            return "看不出差别"
        case "better":
            return _degree(comparison, "学到了", "几乎没变")
        case "worse":
            return _degree(comparison, "反而差了", "几乎没变")


def _general_phrase(comparison: Comparison) -> str:
    match comparison.direction:
        case "same":
            return "看不出差别"
        case "better":
            return _degree(comparison, "没有忘，还好了", "几乎没变")
        case "worse":
            return _degree(comparison, "忘了", "几乎没忘")


def _degree(comparison: Comparison, verb: str, negligible: str) -> str:
    size = abs(comparison.relative_change)
    if size < NEGLIGIBLE:
        return negligible
    if size < SLIGHT:
        return f"{verb}一点"
    if size < LARGE:
        return f"{verb}一些"
    return f"{verb}很多"


def _sentence(where: str, comparison: Comparison) -> str:
    before, after = comparison.before.bits_per_char, comparison.after.bits_per_char
    moved = "降到" if after < before else "升到" if after > before else "仍是"
    text = (
        f"{where}，每字比特数由 {before:.3f} {moved} {after:.3f}"
        f"（{signed_percent(comparison.relative_change)}"
    )
    interval = comparison.relative_interval
    if interval is None:
        return text + "；行数太少，估不出区间，所以看不出是真有差别还是碰巧）。"
    low, high = interval
    text += f"，95% 区间 {signed_percent(low)} 到 {signed_percent(high)}）"
    if comparison.direction == "same":
        text += "，区间含 0，看不出差别"
    return text + "。"


def _advice(domain: Comparison, general: Comparison | None) -> list[str]:
    advice: list[str] = []
    if domain.direction == "worse":
        advice.append(
            "领域变差通常是学习率太高、步数太少（还在预热）或语料没清洗干净："
            "先把学习率降到三分之一再试。"
        )
    elif domain.direction == "same":
        advice.append(
            "多训练几步，或换一份更大的留出集，差别才看得出来；"
            "语料若与预训练时的很像，本来也学不到多少。"
        )
    if general is not None and general.direction == "worse":
        gain, loss = -domain.relative_change, general.relative_change
        if loss >= SLIGHT:
            advice.append(
                "想少忘一些，就掺一点通用文本回放（--replay），或降低学习率。"
            )
        if domain.direction == "better" and loss > gain:
            advice.append("忘的比学的多：这次继续预训练得不偿失。")
    return advice


def signed_percent(value: float) -> str:
    """带正负号的百分数；减号用 U+2212。

    >>> signed_percent(-0.0629), signed_percent(0.012)
    ('−6.3%', '+1.2%')
    """
    text = f"{value:+.1%}"
    return text.replace("+0.0%", "0.0%").replace("-0.0%", "0.0%").replace("-", "−")


def _incomparable(found: str, expected: str, remedy: str) -> EvaluationError:
    return EvaluationError(found=found, expected=expected, remedy=remedy)
