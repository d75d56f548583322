"""错误的一棵树：每条消息都说清发现了什么、应当是什么、可以怎么办。

    CompanionError
    ├── CorpusError       读不了、解不开、洗不净的语料
    ├── ConfigError       写错、互相矛盾的设置
    ├── ObjectiveError    训练目标与样本或分词器不合
    ├── ModelError        检查点缺失、不全、不可信
    ├── TrainingError     训练无法开始或必须停下
    └── EvaluationError   无从评估，或两次评估不可比

命令行只捕获 `CompanionError`：它是用户能改正的事，其余异常是我们的过失。
"""


class CompanionError(Exception):
    """用户能够改正的错误。

    Args:
        found: 发现了什么，连同位置（文件、行号、字节）。
        expected: 应当是什么。
        remedy: 用户下一步可以做什么。
    """

    def __init__(self, *, found: str, expected: str, remedy: str) -> None:
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"发现：{found}。应当：{expected}。可以：{remedy}。")

    def __reduce__(self) -> tuple[object, ...]:
        """能穿过进程边界：多进程分词时，子进程的错误要原样回到用户面前。"""
        return _rebuild, (type(self), self.found, self.expected, self.remedy)


def _rebuild(
    kind: type[CompanionError], found: str, expected: str, remedy: str
) -> CompanionError:
    return kind(found=found, expected=expected, remedy=remedy)


class CorpusError(CompanionError):
    """语料读不了、解不开或不合格式。"""


class ConfigError(CompanionError):
    """设置写错、越界或互相矛盾。"""


class ObjectiveError(CompanionError):
    """训练目标与样本、分词器或参数不合。"""


class ModelError(CompanionError):
    """检查点缺失、不全、不可信，或与目标不符。"""


class TrainingError(CompanionError):
    """训练无法开始，或必须停下。"""


class EvaluationError(CompanionError):
    """无从评估，或两次评估不可比。"""


def raised(error: BaseException) -> str:
    """别的库抛的异常，一行：类型与缘由，写进我们自己的消息里。

    >>> raised(ValueError("bad shape")), raised(KeyError())
    ('ValueError：bad shape', 'KeyError：没有说明')
    """
    said = reason_of(error) if str(error).strip() else "没有说明"
    return f"{type(error).__name__}：{said}"


def reason_of(error: BaseException) -> str:
    r"""异常里真正的缘由，一行：torch 的头一行只说哪个类装不上，形状不符写在后面几行。

    >>> reason_of(RuntimeError("Error(s) in loading A:\n\tsize mismatch"))
    'size mismatch'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":")] or lines
    return telling[0] if telling else type(error).__name__
