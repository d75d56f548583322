"""练习的批改：答对打印“通过”，答错打印为什么，还没作答就说还没作答。

    check("causal-count", 60)            # 通过：……
    check("quickstart-change", ..., metrics=result.metrics)   # 还没有作答

判的是答案，不是写法：小数差不到千分之五算对，数列与张量、元组同样看待。
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from companion.errors import ObjectiveError
from companion.notebook.exercise import Exercise
from companion.notebook.family_exercises import FAMILY_EXERCISES
from companion.notebook.gain_exercises import GAIN_EXERCISES

TOLERANCE = 0.005
UNANSWERED = "还没有作答：把 ... 换成你的答案，再运行这一格。"


def _relative(metrics: Mapping[str, Any], name: str) -> float:
    before, after = (
        metrics[when][name]["bits_per_char"] for when in ("before", "after")
    )
    return after / before - 1


def _perplexity(metrics: Mapping[str, Any]) -> float:
    return math.exp(metrics["after"]["domain"]["loss_nats_per_token"])


EXERCISES: dict[str, Exercise] = {
    "quickstart-change": Exercise(
        right=lambda metrics: _relative(metrics, "domain"),
        because="降低是负数；报告里的百分数就是它。",
        wrong=[
            (
                lambda metrics: -_relative(metrics, "domain"),
                "正负号反了：每字比特数降低是好事，变化写成负数",
            ),
            (
                lambda metrics: _relative(metrics, "general"),
                "这是通用留出集的变化，要的是 domain",
            ),
            (
                lambda metrics: 100 * _relative(metrics, "domain"),
                "写成小数，不要乘 100",
            ),
        ],
        hint="用 (训练后 − 训练前) / 训练前，两个数都取 domain 的 bits_per_char",
    ),
    "quickstart-forgetting": Exercise(
        right="B",
        because="通用一行上升就是遗忘；先试回放或更低的学习率。",
        wrong=[
            ("A", "领域一行只说学到了多少，看不出忘了什么"),
            ("C", "训练损失在训练文本上量，与通用文本无关"),
        ],
        hint="写 A、B、C 三个字母之一，加引号",
    ),
    "quickstart-compare": Exercise(
        right=False,
        because="两个目标猜的字、看到的上下文都不同，只能各自比较训练前后。",
        wrong=[(True, "一个看得见两边，只猜遮住的字；一个只看左边，每个字都猜")],
        hint="写 True 或 False，不加引号",
    ),
    **FAMILY_EXERCISES,
    **GAIN_EXERCISES,
    "causal-count": Exercise(
        right=60,
        because="63 个词元，减去 3 个没有上文的首词元。",
        wrong=[
            (63, "每篇的首个词元没有上文，不计损失，还要减去 3 个"),
            (62, "不只第一篇，每篇文档的首个词元都不计损失"),
            (57, "结尾的 </s> 是真正的目标，不能去掉"),
        ],
        hint="先数词元（连同每篇末尾的 </s>），再减去没有上文的",
    ),
    "causal-labels": Exercise(
        right=[-100, 6, 2, -100, 2],
        because="照抄输入，两篇文档的首个词元改成 −100。",
        wrong=[
            ([6, 2, 7, 2, -100], "这是自己移了一位；移位在模型里，标签与输入同列"),
            ([-100, 6, 2, 7, 2], "第二篇的首个词元也没有上文，第 3 列应是 −100"),
            ([-100, 6, -100, -100, -100], "文档结尾（编号 2）是目标，不要遮"),
            ([5, 6, 2, 7, 2], "文档的首个词元没有上文，应是 −100"),
        ],
        hint="写一个有 5 个整数的列表，与 input_ids 同列",
    ),
    "causal-double-shift": Exercise(
        right="死",
        because="隔了一个字：模型看着“狡”，却被要求猜“死”。",
        wrong=[("兔", "那是没有多移时的答案；这里标签已经自己移过一次")],
        hint="先写出自己移位后的标签，再让模型移一次",
    ),
    "causal-perplexity": Exercise(
        right=_perplexity,
        because="困惑度是每个词元的指标，换了分词器就不能比。",
        wrong=[
            (
                lambda metrics: 2 ** metrics["after"]["domain"]["loss_nats_per_token"],
                "损失的单位是奈特，底数是 e 而不是 2",
            ),
            (
                lambda metrics: 2 ** metrics["after"]["domain"]["bits_per_char"],
                "这是每个字的；困惑度按词元算，用 loss_nats_per_token",
            ),
        ],
        hint="困惑度是 math.exp(每词元的损失)，取训练后、domain 的那个",
    ),
    "masked-empty": Exercise(
        right=0.85**3,
        because="三个都没选中的概率超过一半；我们的规则保证至少选一个。",
        wrong=[
            (0.15**3, "这是三个全选中的概率"),
            (1 - 0.85**3, "这是至少选中一个的概率"),
            (0.85, "这是一个词元没选中的概率，要三个都没选中"),
        ],
        hint="每个词元独立，没选中的概率是 0.85",
    ),
    "masked-budget": Exercise(
        right=77,
        because="0.15 × 512 = 76.8，四舍五入；不是掷 512 次骰子。",
        wrong=[
            (76, "是四舍五入，不是舍去"),
            (76.8, "个数是整数"),
        ],
        hint="用 max(1, round(0.15 * T))，T 含 [CLS] 与 [SEP]",
    ),
    "masked-dice": Exercise(
        right=0.8**3,
        because="各掷各的，所以一个词往往遮得不完整。",
        wrong=[
            (0.8, "三个字各掷一次骰子，不是一起掷"),
            (0.15**3, "词已经选中了，不用再乘选中的概率"),
        ],
        hint="选中的每个词元各自以 0.8 的概率换成 [MASK]",
    ),
    "seq2seq-lengths": Exercise(
        right=[181, 41],
        because="200 − 30 + 10 + 1 与 30 + 10 + 1：每段一个哨兵，两边都有。",
        wrong=[
            ([180, 40], "两边各有一个 </s>，都要算上"),
            ([171, 31], "每段还要一个哨兵，10 段就是 10 个"),
            ([170, 30], "哨兵与 </s> 还没有算"),
            ([41, 181], "次序反了：先写编码器的输入"),
        ],
        hint="遮住 30 个，分成 10 段；写成 [输入, 目标]",
    ),
    "seq2seq-target": Exercise(
        right="<extra_id_0>光<extra_id_1>之职</s>",
        because="目标只有缺的文字，各由输入里的那个哨兵领着。",
        wrong=[
            ("臣光曰天子之职</s>", "这是重写全文，是 BART 的目标"),
            ("光之职</s>", "少了哨兵，模型分不清哪段填在哪里"),
            ("<extra_id_0>光<extra_id_1>之职", "结尾的 </s> 也是目标"),
            (
                "臣<extra_id_0>曰天子<extra_id_1></s>",
                "这是编码器的输入，要的是解码器的目标",
            ),
        ],
        hint="写一个字符串：哨兵、缺的文字，再是哨兵、缺的文字，最后 </s>",
    ),
    "seq2seq-shift": Exercise(
        right=[6, 11, 12, 13],
        because="标签右移一格，空出的首格放 decoder_start_token_id。",
        wrong=[
            ([11, 12, 13, 6], "这是标签自己；解码器会在第 k 格看到第 k 格的答案"),
            ([12, 13, 6, 6], "方向反了：这是左移"),
            ([-100, 11, 12, 13], "−100 不是词元，首格要放模型认得的编号"),
            ([0, 11, 12, 13], "T5 的首格才是填充词元；这个模型的写在题目里"),
        ],
        hint="写一个有 4 个整数的列表，与 labels 等长",
    ),
    "seq2seq-copy": Exercise(
        right=0.7,
        because="看得见的七成都抄对了；所以评估只考隐藏的字，这样的模型得 0 分。",
        wrong=[
            (0.3, "这是隐藏的比例，它一个也没写对"),
            (0.0, "这是只考隐藏的字时的准确率；题目把照抄的也算上了"),
            (1.0, "隐藏的三成它写不对"),
        ],
        hint="照抄的字也算对，隐藏的字全错",
    ),
    "seq2seq-mass": Exercise(
        right="A",
        because="编码器什么也看不见，解码器从头写到尾，就是因果语言模型。",
        wrong=[
            ("B", "只遮一个字时才像掩码语言模型"),
            ("C", "MASS 不用哨兵，也不分段"),
        ],
        hint="写 A、B、C 三个字母之一，加引号",
    ),
    "prefix-lengths": Exercise(
        right=[90, 20],
        because="A 是 100 − 15 + 5，B 是 15 + 5：每个空在 A 留一格，在 B 多一个 [S]。",
        wrong=[
            ([85, 15], "A 里每个空留一格，B 里每个片段有一个 [S]，各多 5 个"),
            ([90, 15], "B 里每个片段还有一个 [S]"),
            ([85, 20], "A 里每个空还留着一格"),
            ([90, 25], "[E] 只在标签里，不在输入里"),
            ([20, 90], "次序反了：先写 A 部分"),
        ],
        hint="挖去 15 个，分成 5 段；写成 [A 的长度, B 的长度]",
    ),
    "prefix-labels": Exercise(
        right=[11, 12, 7],
        because="标签与输入对齐：[S] 处的输出就是片段的首个词元，末格是 [E]。",
        wrong=[
            ([5, 11, 12], "这是输入自己；[S] 处该猜的是片段的首个词元"),
            ([-100, 11, 12], "[S] 处就要写出首个词元，末格还要写 [E]"),
            ([12, 7, -100], "多移了一格：标签与输入对齐，不再移位"),
            ([11, 12, 6], "末格是片段的结尾 [E]，不是文档的结尾"),
        ],
        hint="写一个有 3 个整数的列表，与 B 部分的输入等长",
    ),
    "prefix-positions": Exercise(
        right=[[2, 2, 2], [1, 2, 3]],
        because="第一行都是空的位置，第二行在片段里从 1 数起，[S] 也占一个。",
        wrong=[
            ([[2, 2, 2], [0, 1, 2]], "第二行从 1 数起：0 留给 A 部分"),
            ([[2, 3, 4], [1, 2, 3]], "第一行是空的位置，一个片段里都相同"),
            ([[5, 6, 7], [1, 2, 3]], "第一行不接着 A 往下数，是空在 A 里的位置"),
            ([[1, 2, 3], [2, 2, 2]], "两行写反了"),
        ],
        hint="写成 [第一行, 第二行]，每行 3 个整数",
    ),
    "prefix-unilm-reads": Exercise(
        right=13,
        because="源端 6 个与第一个 [MASK]，此后每步两个：刚写的字与新的 [MASK]。",
        wrong=[
            (10, "每步还要读一个新的 [MASK]，猜完就忘掉"),
            (9, "每步还要读一个新的 [MASK]，猜完就忘掉"),
            (14, "最后写出的字不用再读"),
            (7, "后面三步各读两个：刚写的字与新的 [MASK]"),
        ],
        hint="第一步读源端与一个 [MASK]，此后每步读刚写的字与一个新的 [MASK]",
    ),
    "prefix-isolated": Exercise(
        right="B",
        because="不报错，损失也照样算，只是 B 部分看不见 A：填空成了瞎猜。",
        wrong=[
            ("A", "形状都对，不会报错；所以才危险"),
            ("C", "试出来 B 看 A 是 0：重复的位置叫它当成了许多篇文档"),
        ],
        hint="写 A、B、C 三个字母之一，加引号",
    ),
}
"""编号 → 练习；编号的前半是章，与书里的练习相同。"""


def check(name: str, answer: Any = ..., **given: Any) -> None:
    """批改一道练习，打印结果。

    Args:
        name: 练习的编号。
        answer: 你的答案；`...` 表示还没有作答。
        **given: 算出正确答案要用的，如 `metrics=result.metrics`。

    Raises:
        ObjectiveError: 没有这道练习。

    >>> check("causal-count", 63)
    再想想：每篇的首个词元没有上文，不计损失，还要减去 3 个。
    """
    print(judge(name, answer, **given))


def judge(name: str, answer: Any, **given: Any) -> str:
    """`check` 要打印的一句话。"""
    exercise = EXERCISES.get(name)
    if exercise is None:
        near = difflib.get_close_matches(name, EXERCISES, n=1, cutoff=0.4)
        raise ObjectiveError(
            found=f"没有练习 {name!r}",
            expected="、".join(EXERCISES) + " 之一",
            remedy=f"是不是想写 {near[0]}" if near else "照题目里的编号写",
        )
    if answer is ... or answer is None:
        return UNANSWERED
    said = _plain(answer)
    if _same(said, _value(exercise.right, given)):
        return f"通过：{exercise.because}"
    for wrong, reason in exercise.wrong:
        if _same(said, _value(wrong, given)):
            return f"再想想：{reason}。"
    return f"再想想：{exercise.hint}。"


def _value(value: Any, given: Mapping[str, Any]) -> Any:
    function: Callable[..., Any] | None = value if callable(value) else None
    return function(**given) if function else value


def _plain(answer: Any) -> Any:
    """张量与 numpy 的数变成普通的数与列表，字符串去掉两头的空白。"""
    if isinstance(answer, str):
        return answer.strip()
    if hasattr(answer, "tolist"):
        return answer.tolist()
    return list(answer) if isinstance(answer, tuple) else answer


def _same(said: Any, wanted: Any) -> bool:
    """类型相合而值相同；小数容许误差，真假不与 0、1 混同。"""
    if isinstance(said, bool) or isinstance(wanted, bool):
        return said is wanted
    if isinstance(said, int | float) and isinstance(wanted, int | float):
        slack = 0 if isinstance(wanted, int) else TOLERANCE * max(1.0, abs(wanted))
        return abs(said - wanted) <= slack
    return type(said) is type(wanted) and said == wanted
