"""《资治通鉴》句对的整理：上游的逐卷文件 → 按卷切分、逐条清洗的语料。

上游 NiuTrans/Classical-Modern 每卷两个文件，`source.txt` 文言、`target.txt` 白话，
逐行对应。规则依次如下，任一侧不合格则整对丢弃，丢弃各有名目：

1. 去掉空白（上游把引号都换成了空格），半角标点转全角，删行首的残留标点；
2. 删编者插入的“干支，公元某年”，删白话侧的杂字“崐”（昆仑的“崐”除外）；
3. 十五个漏转的繁体字归一；
4. 丢弃坏字符、拆字、卷首语、标题、过短、长度悬殊、错位、未翻译的对；
5. 训练集去掉重复的对，以及与留出集、测试集雷同的对。
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from companion.corpus.document import CHAPTERS, read_lines
from companion.corpus.sources import SPLITS
from companion.errors import CorpusError

Pair = tuple[str, str]
"""文言、白话。"""

DROP_REASONS = {
    "bad_characters": "坏字符",
    "split_characters": "拆字",
    "preamble": "卷首语",
    "title": "标题或截断",
    "too_short": "过短",
    "length_ratio": "长度悬殊",
    "misaligned": "错位",
    "untranslated": "未翻译",
    "duplicate": "训练集内重复",
    "leak": "与留出集雷同",
}
"""丢弃的名目。"""

_JI = (
    ("周纪", 5), ("秦纪", 3), ("汉纪", 60), ("魏纪", 10), ("晋纪", 40), ("宋纪", 16),
    ("齐纪", 10), ("梁纪", 22), ("陈纪", 10), ("隋纪", 8), ("唐纪", 81),
    ("后梁纪", 6), ("后唐纪", 8), ("后晋纪", 6), ("后汉纪", 4), ("后周纪", 5),
)  # fmt: skip
MISSING_JUAN = frozenset((113, 200))
"""上游没有译文的卷。"""
VALID_JUAN = frozenset(
    (6, 32, 58, 65, 80, 109, 132, 156, 164, 183, 211, 229, 242, 257, 275)
)
"""留出集的卷：每个朝代都有，彼此不相邻。"""
TEST_JUAN = frozenset(
    (15, 22, 48, 76, 93, 103, 128, 151, 170, 186, 214, 233, 245, 271, 292)
)
"""测试集的卷：从不用来训练，也不用来挑模型。"""


@dataclass(frozen=True)
class Juan:
    """一卷。

    Args:
        number: 卷号，1–294。
        ji: 所属的纪，如 `周纪`。
        chapter: 卷名，如 `周纪一`。
    """

    number: int
    ji: str
    chapter: str

    @property
    def split(self) -> str:
        """所属的切分：`train`、`valid` 或 `test`。"""
        if self.number in VALID_JUAN:
            return "valid"
        return "test" if self.number in TEST_JUAN else "train"

    def path(self, side: str) -> str:
        """上游仓库中的路径；`side` 为 `classical` 或 `modern`。"""
        name = {"classical": "source.txt", "modern": "target.txt"}[side]
        return f"双语数据/资治通鉴/{self.ji}/{self.chapter}/{name}"


def chinese_number(number: int) -> str:
    """1–99 的中文数字：`21` → `二十一`。"""
    tens, ones = divmod(number, 10)
    digits = "零一二三四五六七八九"
    head = "" if tens == 0 else "十" if tens == 1 else digits[tens] + "十"
    return head + (digits[ones] if ones else "")


def all_juan() -> tuple[Juan, ...]:
    """上游有译文的 292 卷，按卷号。"""
    listed: list[Juan] = []
    number = 0
    for ji, count in _JI:
        for index in range(1, count + 1):
            number += 1
            if number not in MISSING_JUAN:
                listed.append(Juan(number, ji, ji + chinese_number(index)))
    return tuple(listed)


_TO_FULL_WIDTH = str.maketrans(",;:!?", "，；：！？")
_UNIFIED = str.maketrans(
    "硃籓鄴兗鐸瓚後恆兒纔漢臺瞞惲訥", "朱藩邺兖铎瓒后恒儿才汉台瞒恽讷"
)
_LEADING = re.compile("^[，。；：？！、）》”’」』…—·]+")
_YEAR = re.compile(
    "[（(]?[甲乙丙丁戊己庚辛壬癸][子丑寅卯辰巳午未申酉戌亥][，、]?"
    "公元前?[0-9０-９〇零一二三四五六七八九十百千]+年[）)]?"
)
_STRAY = re.compile("崐(?![仑崙山岭陵])")
_ALLOWED = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff々〇，。、；：？！《》〈〉“”‘’"
    "「」『』（）〔〕【】…—·]*"
)
_COMPONENTS = re.compile("[亻刂纟讠钅饣犭扌氵忄衤礻辶艹宀灬疒冖凵勹卩阝廴]")
_CLASSICAL_PREAMBLE = re.compile("^起.*尽.*凡.*年")
_MODERN_PREAMBLE = re.compile("^起.*止.*共.*年")
_ENDING = re.compile("[。！？：…][”’」』）》]*$")
_NOT_HAN = re.compile("[^\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_SENTENCE_END = re.compile("[。！？；]")


def han(text: str) -> str:
    """只留汉字。"""
    return _NOT_HAN.sub("", text)


def clean_pair(classical: str, modern: str) -> Pair | str:
    """清洗一个句对。

    Args:
        classical: 文言，上游的一行。
        modern: 白话，对应的一行。

    Returns:
        洗净的句对；不合格则为 `DROP_REASONS` 中的名目。
    """
    if "?" in classical:  # 文言侧的半角问号是上游的乱码标记，不是标点
        return "bad_characters"
    classical, modern = _normalise(classical), _STRAY.sub("", _normalise(modern))
    for text in (classical, modern):
        if _ALLOWED.fullmatch(text) is None:
            return "bad_characters"
    if _COMPONENTS.search(classical) or _COMPONENTS.search(modern):
        return "split_characters"
    if _CLASSICAL_PREAMBLE.match(classical) or _MODERN_PREAMBLE.match(modern):
        return "preamble"
    if not (_ENDING.search(classical) and _ENDING.search(modern)):
        return "title"
    return _compare(han(classical), han(modern)) or (classical, modern)


def _compare(classical: str, modern: str) -> str | None:
    """由两侧的汉字看出过短、悬殊、错位与未翻译。"""
    if len(classical) < 2 or len(modern) < 2:
        return "too_short"
    if len(classical) >= 8:
        if classical == modern:
            return "untranslated"
        if not 0.6 <= len(modern) / len(classical) <= 4.5:
            return "length_ratio"
    distinct = set(classical)
    if len(classical) >= 10 and len(distinct & set(modern)) < 0.12 * len(distinct):
        return "misaligned"
    return None


def _normalise(text: str) -> str:
    squeezed = "".join(text.split()).translate(_TO_FULL_WIDTH)
    return _LEADING.sub("", _YEAR.sub("", squeezed)).translate(_UNIFIED)


def find_repeats(pairs: Iterable[Pair]) -> set[int]:
    """重复的句对（两侧都相同，文言不少于 8 个汉字），留先来的，返回其余的下标。"""
    seen: set[Pair] = set()
    repeated: set[int] = set()
    for index, pair in enumerate(pairs):
        if len(han(pair[0])) < 8:
            continue  # “帝从之。”一类短句本来就到处都有
        if pair in seen:
            repeated.add(index)
        seen.add(pair)
    return repeated


def find_leaks(train: Sequence[Pair], held_out: Sequence[Pair]) -> set[int]:
    """训练集中与留出集雷同的句对。

    只比汉字，两侧各查一遍。雷同指：训练行里含有留出集的整句（≥ 8 字），
    训练行（≥ 8 字）整个在留出集的一行之内，或两者有 20 字连续相同。

    Args:
        train: 训练句对。
        held_out: 留出集与测试集的句对。

    Returns:
        雷同的训练句对的下标。
    """
    leaked: set[int] = set()
    for side in (0, 1):
        detector = _LeakDetector(pair[side] for pair in held_out)
        leaked |= {
            index for index, pair in enumerate(train) if detector.leaks(han(pair[side]))
        }
    return leaked


class _LeakDetector:
    """一侧留出文本的索引，用来查训练行。"""

    def __init__(self, rows: Iterable[str]) -> None:
        self.rows: list[str] = []
        self.sentences: dict[str, list[str]] = {}  # 句首八字 → 整句
        self.places: dict[str, list[int]] = {}  # 行内任意八字 → 行号
        self.runs: set[str] = set()  # 行内任意二十字
        for number, row in enumerate(rows):
            letters = han(row)
            self.rows.append(letters)
            for sentence in map(han, _SENTENCE_END.split(row)):
                if len(sentence) >= 8:
                    self.sentences.setdefault(sentence[:8], []).append(sentence)
            for start in range(len(letters) - 7):
                self.places.setdefault(letters[start : start + 8], []).append(number)
            self.runs.update(letters[at : at + 20] for at in range(len(letters) - 19))

    def leaks(self, row: str) -> bool:
        """一行训练文本（只含汉字）是否与留出集雷同。"""
        if len(row) < 8:
            return False
        if any(row in self.rows[number] for number in self.places.get(row[:8], ())):
            return True
        for start in range(len(row) - 7):
            for sentence in self.sentences.get(row[start : start + 8], ()):
                if row.startswith(sentence, start):
                    return True
        return any(row[at : at + 20] in self.runs for at in range(len(row) - 19))


@dataclass(frozen=True)
class SplitCount:
    """一个切分的规模：句对数与两侧字数。"""

    lines: int
    classical: int
    modern: int


def build(
    chapters: Sequence[Juan], raw: Path, out: Path
) -> tuple[dict[str, SplitCount], dict[str, int]]:
    """把上游的各卷整理成语料。

    Args:
        chapters: 各卷，按卷号。
        raw: 上游文件所在的文件夹。
        out: 写到哪里；须已存在。

    Returns:
        每个切分的规模，与每个名目丢弃的句对数。

    Raises:
        CorpusError: 某卷读不了，或两侧行数不同。
    """
    dropped: Counter[str] = Counter()
    kept: dict[str, list[tuple[Juan, Pair]]] = {split: [] for split in SPLITS}
    for juan in chapters:
        for classical, modern in _raw_pairs(juan, raw):
            cleaned = clean_pair(classical, modern)
            if isinstance(cleaned, str):
                dropped[cleaned] += 1
            else:
                kept[juan.split].append((juan, cleaned))
    train = [pair for _, pair in kept["train"]]
    held_out = [pair for split in ("valid", "test") for _, pair in kept[split]]
    repeats = find_repeats(train)
    leaks = find_leaks(train, held_out) - repeats
    dropped["duplicate"], dropped["leak"] = len(repeats), len(leaks)
    kept["train"] = [
        row for index, row in enumerate(kept["train"]) if index not in repeats | leaks
    ]
    table = ["split\tjuan\tji\tchapter\tfirst_line\tn_lines"]
    counts: dict[str, SplitCount] = {}
    for split, rows in kept.items():
        if rows:
            table += _chapter_rows(split, rows)
            counts[split] = _write_split(out, split, [pair for _, pair in rows])
    (out / CHAPTERS).write_text("\n".join(table) + "\n", encoding="utf-8")
    return counts, {name: dropped[name] for name in DROP_REASONS if dropped[name]}


def _raw_pairs(juan: Juan, raw: Path) -> list[Pair]:
    # 上游自己有少数坏字，由清洗逐对丢弃，不在这里整份拒绝
    sides = [
        list(read_lines(raw / juan.path(side), refuse_garble=False))
        for side in ("classical", "modern")
    ]
    if len(sides[0]) != len(sides[1]):
        raise CorpusError(
            found=f"{juan.chapter}文言 {len(sides[0])} 行、白话 {len(sides[1])} 行",
            expected="两侧行数相同",
            remedy="多半是下载残缺，删去缓存里的 upstream 文件夹后重新取得",
        )
    return list(zip(*sides, strict=True))


def _chapter_rows(split: str, rows: Sequence[tuple[Juan, Pair]]) -> list[str]:
    lines: list[str] = []
    first = 1
    for juan, count in Counter(juan for juan, _ in rows).items():
        lines.append(
            f"{split}\t{juan.number}\t{juan.ji}\t{juan.chapter}\t{first}\t{count}"
        )
        first += count
    return lines


def _write_split(out: Path, split: str, pairs: Sequence[Pair]) -> SplitCount:
    for side, name in enumerate(("classical", "modern")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        (out / f"{split}.{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    classical, modern = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return SplitCount(len(pairs), classical, modern)
