"""速度：破坏一百万个词元要多久，我们的整批写法与公开脚本的逐行写法，同一次运行。

    python benchmarks/corruption_speed.py
    python benchmarks/corruption_speed.py span_corruption --tokens 200000

逐行写法是同一算法的 numpy 版，照公开的预训练脚本一行一行地做（T5：transformers 的
`run_t5_mlm_flax.py` 与 nanoT5，掩码逐行造，换哨兵时等长的几行一起做；BART：fairseq 的
`denoising_dataset.py`），函数由我们重写。词元是随机的：破坏的快慢与内容无关，只有句子的
长短要像样，所以每二十个词里有一个以“。”结尾。

计的是本进程的 CPU 秒，与机器上别的活计无关。三个数：

- `corrupt`：只算破坏，与逐行写法比；
- `collate`：连同读样本、套特殊词元、补齐成批，即训练时每个词元真正的开销；
- `step`：起步模型训练一步（向前、向后），破坏只占它的百分之几。
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from recording import record

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.running import position_limit
from companion.objectives.gap_sentences import GapSentencesCollator
from companion.objectives.masked_seq2seq import MaskedSeq2SeqCollator
from companion.objectives.mixture_of_denoisers import MixtureOfDenoisersCollator
from companion.objectives.ragged import Ragged, document_keys
from companion.objectives.seq2seq import Seq2SeqCollator
from companion.objectives.span_corruption import SpanCorruptionCollator
from companion.objectives.text_infilling import TextInfillingCollator

SPECIALS = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]
NUM_SENTINELS, NUM_PLAIN = 100, 20_000
SENTENCE = 20
"""一句平均几个词元。"""
BATCHES = (4096, 16_384, 65_536)
REPEATS, SECONDS = 3, 1.0
"""取最快的一遍：至少几遍，至少共几秒（短的活计多跑几遍，才躲得开别的活计）。"""
SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    # 一行 568 个词元，破坏之后是 T5 的 512 与 114
    "rows_of_568": lambda rng, tokens: np.full(tokens // 568, 568),
    # 一行一句：5 到 59 个词元
    "lines": lambda rng, tokens: rng.integers(5, 60, tokens // 32),
}


def make_tokenizer() -> Any:
    """各目标共用：普通词元在中间，哨兵在末尾，编号递减，同 T5。"""
    # 一个词元一个字，同中文的字符词表
    plain = (chr(0x4E00 + i) + "。" * (i % SENTENCE == 0) for i in range(NUM_PLAIN))
    words = [*SPECIALS, *plain]
    words += [f"<extra_id_{i}>" for i in reversed(range(NUM_SENTINELS))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        mask_token="<mask>",
    )


TOKENIZER = make_tokenizer()
MASK = TOKENIZER.mask_token_id
SENTINELS = np.array(
    TOKENIZER.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(NUM_SENTINELS)])
)


def t5_mask(
    length: int, rng: np.random.Generator, density: float, mean: float
) -> np.ndarray:
    """T5 的一行掩码：没盖的与盖住的各随意分段，交替排列。"""
    num_noise = min(max(round(length * density), 1), length - 1)
    num_spans = min(max(round(num_noise / mean), 1), length - num_noise)

    def segment(total: int) -> np.ndarray:
        borders = np.arange(total - 1) < num_spans - 1
        rng.shuffle(borders)
        part = np.cumsum(np.pad(borders, [[1, 0]]))
        return np.unique(part, return_counts=True)[1]

    spans = np.stack([segment(length - num_noise), segment(num_noise)], axis=1)
    turning = np.zeros(length, np.int8)
    turning[np.cumsum(spans.ravel())[:-1]] = 1
    return np.cumsum(turning) % 2 == 1


def t5_sides(tokens: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """几行等长的，(B, T)：对输入与目标各做一遍“一段换成一个哨兵”。"""

    def collapse(hidden: np.ndarray) -> np.ndarray:
        first = hidden & ~np.roll(hidden, 1, axis=1)
        first[:, 0] = hidden[:, 0]
        numbers = np.where(first, SENTINELS[np.cumsum(first, axis=1) - 1], tokens)
        return numbers[first | ~hidden].reshape(len(tokens), -1)

    return collapse(masks), collapse(~masks)


def span_corruption_rows(rows: list[np.ndarray], rng: np.random.Generator) -> None:
    """公开的整理器逐行造掩码，换哨兵则一批一起做：它们要求各行等长，不等长就一行一批。"""
    equal = len({len(row) for row in rows}) == 1
    for batch in [np.stack(rows)] if equal else [row[None] for row in rows]:
        masks = [t5_mask(batch.shape[1], rng, 0.15, 3.0) for _ in batch]
        t5_sides(batch, np.stack(masks))


def mixture_row(
    tokens: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """UL2 的一行：七种抽一种；S 从末尾切下一段。"""
    which = rng.integers(7)
    if which == 6:
        cut = len(tokens) - rng.integers(1, len(tokens) // 2 + 1)
        return tokens[:cut], tokens[cut:]
    pairs = ((0.15, 3), (0.15, 8), (0.5, 3), (0.5, 8), (0.15, 64), (0.5, 64))
    masks = t5_mask(len(tokens), rng, *pairs[which])[None]
    return t5_sides(tokens[None], masks)


def permuted(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """BART 的一行：各句随意排列，一句一句地抄。"""
    stops = (tokens - len(SPECIALS)) % SENTENCE == 0
    stops[-1] = True
    ends = np.flatnonzero(stops & ~np.append(stops[1:], False)) + 1
    starts = np.append(0, ends[:-1])
    out = np.empty_like(tokens)
    at = 0
    for sentence in rng.permutation(len(ends)):
        piece = tokens[starts[sentence] : ends[sentence]]
        out[at : at + len(piece)] = piece
        at += len(piece)
    return out


def text_infilling_row(
    tokens: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """BART 的一行：打乱句子，各段同步地一格一格往右伸，最后凭空插掩码。"""
    source = permuted(tokens, rng)
    budget = int(np.ceil(len(source) * 0.3))
    lengths = rng.poisson(3.0, budget)
    while lengths.sum() < budget:
        lengths = np.append(lengths, rng.poisson(3.0, budget))
    total = np.cumsum(lengths)
    used = int(np.argmax(total >= budget)) + 1
    lengths = lengths[:used]
    lengths[-1] -= total[used - 1] - budget
    num_inserts = int((lengths == 0).sum())
    left = lengths[lengths > 0] - 1
    at = rng.permutation(len(source))[: len(left)]
    keep = np.ones(len(source), bool)
    source[at] = MASK
    while len(at):
        going = (left > 0) & (at + 1 < len(source))
        at, left = at[going] + 1, left[going] - 1
        keep[at] = False
    source = source[keep]
    inserted = np.zeros(len(source) + num_inserts, bool)
    inserted[rng.permutation(len(inserted))[:num_inserts]] = True
    out = np.full(len(inserted), MASK)
    out[~inserted] = source
    return out, tokens


def masked_seq2seq_row(
    tokens: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """MASS 的一行：定起点，片段里逐个词元掷骰子，同发布的代码。"""
    size = max(1, round(len(tokens) * 0.5))
    last, lot = len(tokens) - size, rng.random()
    start = 0 if lot < 0.2 else last if lot < 0.4 else rng.integers(last + 1)
    source = tokens.copy()
    for at in range(start, start + size):
        lot = rng.random()
        if lot < 0.8:
            source[at] = MASK
        elif lot < 0.9:
            source[at] = rng.integers(len(SPECIALS), len(SPECIALS) + NUM_PLAIN)
    return source, tokens[start : start + size]


def gap_sentences_row(
    tokens: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """PEGASUS 的一行：逐句与其余各句比 ROUGE-1，词元作字。"""
    stops = (tokens - len(SPECIALS)) % SENTENCE == 0
    stops[-1] = True
    ends = np.flatnonzero(stops & ~np.append(stops[1:], False)) + 1
    sentences = np.split(tokens, ends[:-1])
    if len(sentences) < 2:
        return tokens, tokens[:0]
    counts = [Counter(sentence.tolist()) for sentence in sentences]
    whole = Counter(tokens.tolist())
    scores = [
        2 * (count & (whole - count)).total() / len(tokens) * (0.8 + 0.4 * rng.random())
        for count in counts
    ]
    number = min(max(1, round(len(sentences) * 0.3)), len(sentences) - 1)
    chosen = set(np.argsort(scores)[-number:].tolist())
    source = [
        np.array([MASK]) if i in chosen else sentence
        for i, sentence in enumerate(sentences)
    ]
    target = [sentences[i] for i in sorted(chosen)]
    return np.concatenate(source), np.concatenate(target)


@dataclass(frozen=True)
class Entry:
    """一个目标：我们的整理器，逐行的写法（一批行进），训练一步用的起步模型。"""

    collator: Callable[[Any], Seq2SeqCollator]
    row_by_row: Callable[[list[np.ndarray], np.random.Generator], None]
    starter: str


def each(
    corrupt_row: Callable[[np.ndarray, np.random.Generator], tuple[Any, Any]],
) -> Callable[[list[np.ndarray], np.random.Generator], None]:
    """一行一行地做。"""

    def corrupt_rows(rows: list[np.ndarray], rng: np.random.Generator) -> None:
        for row in rows:
            corrupt_row(row, rng)

    return corrupt_rows


ENTRIES = {
    "span_corruption": Entry(SpanCorruptionCollator, span_corruption_rows, "t5"),
    "mixture_of_denoisers": Entry(MixtureOfDenoisersCollator, each(mixture_row), "t5"),
    "text_infilling": Entry(TextInfillingCollator, each(text_infilling_row), "bart"),
    "masked_seq2seq": Entry(MaskedSeq2SeqCollator, each(masked_seq2seq_row), "bart"),
    "gap_sentences": Entry(GapSentencesCollator, each(gap_sentences_row), "t5"),
}


def batches_of(lengths: np.ndarray, batch_tokens: int) -> Iterator[Ragged]:
    """把各行依次装成批，一批约 `batch_tokens` 个词元。"""
    rng = np.random.default_rng(1)
    group = np.cumsum(lengths) // batch_tokens
    for number in np.unique(group):
        chosen = lengths[group == number]
        low, high = len(SPECIALS), len(SPECIALS) + NUM_PLAIN
        yield Ragged(rng.integers(low, high, int(chosen.sum())), chosen)


def nanoseconds_per_token(work: Callable[[], None], tokens: int) -> float:
    """几遍里最快的一遍，CPU 纳秒每词元。"""
    seconds: list[float] = []
    while len(seconds) < REPEATS or sum(seconds) < SECONDS:
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds) / tokens * 1e9


def measure(entry: Entry, lengths: np.ndarray, batch_tokens: int) -> dict[str, float]:
    """一种行长、一种批量下的各个数。"""
    batches = list(batches_of(lengths, batch_tokens))
    keys = [
        document_keys(0, zeros := np.zeros(len(b), np.int64), np.arange(len(b)), zeros)
        for b in batches
    ]
    tokens = int(lengths.sum())
    collator = entry.collator(TOKENIZER)
    rows = [batch.split() for batch in batches]
    features = [
        [
            {"input_ids": np.append(row, TOKENIZER.eos_token_id), "example_id": i}
            for i, row in enumerate(batch)
        ]
        for batch in rows
    ]

    def ours() -> None:
        for batch, key in zip(batches, keys, strict=True):
            # 新造一个：`Ragged` 会记住算过的起点与归属
            collator.corrupt_documents(Ragged(batch.values, batch.lengths), key)

    def theirs() -> None:
        rng = np.random.default_rng(0)
        for batch in rows:
            entry.row_by_row(batch, rng)

    def whole() -> None:
        for batch in features:
            collator(batch)

    corrupt = nanoseconds_per_token(ours, tokens)
    row_by_row = nanoseconds_per_token(theirs, tokens)
    return {
        "corrupt_ns_per_token": round(corrupt, 1),
        "row_by_row_ns_per_token": round(row_by_row, 1),
        "times_faster": round(row_by_row / corrupt, 1),
        "collate_ns_per_token": round(nanoseconds_per_token(whole, tokens), 1),
    }


def step_nanoseconds(entry: Entry, objective: str, lengths: np.ndarray) -> float:
    """起步模型训练一步（4096 个词元），CPU 纳秒每词元。"""
    checkpoint = load_checkpoint(f"starter:{entry.starter}", objective)
    collator = entry.collator(checkpoint.tokenizer)
    limit = position_limit(checkpoint.model)
    if limit is not None:  # BART 的位置表只有这么多行
        lengths = np.minimum(lengths, limit - 2)
    batch = next(batches_of(lengths, BATCHES[0]))
    edge = checkpoint.tokenizer.eos_token_id
    taken = checkpoint.tokenizer.convert_tokens_to_ids(list("天地人之以而为于其有"))
    features = [
        {"input_ids": np.append(np.resize(taken, len(row)), edge), "example_id": i}
        for i, row in enumerate(batch.split())
    ]
    inputs = collator(features)

    def step() -> None:
        checkpoint.model(**inputs).loss.backward()

    return nanoseconds_per_token(step, len(batch.values))


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """一个目标一行：各种行长、批量下快几倍，与成批占一步的最大的份额。"""
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        row = rows.setdefault(run["objective"], {"objective": run["objective"]})
        times = row.setdefault(run["shape"], {})
        times[str(run["batch_tokens"])] = run["times_faster"]
        share = max(row.get("largest_share", 0.0), run["collate_share_of_step"])
        row["largest_share"] = share
    return list(rows.values())


def main() -> None:
    """逐个目标、行长、批量计时，写进 results/。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objectives", nargs="*", default=[*ENTRIES], metavar="目标")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    args = parser.parse_args()
    unknown = set(args.objectives) - ENTRIES.keys()
    if unknown:
        parser.error(f"没有 {'、'.join(unknown)}；可选 {'、'.join(ENTRIES)}")
    runs: list[dict[str, Any]] = []
    for objective in args.objectives:
        entry = ENTRIES[objective]
        for shape, lengths_of in SHAPES.items():
            lengths = lengths_of(np.random.default_rng(0), args.tokens)
            step = step_nanoseconds(entry, objective, lengths)
            for batch_tokens in BATCHES:
                run = measure(entry, lengths, batch_tokens)
                share = run["collate_ns_per_token"] / step
                run["step_ns_per_token"] = round(step, 1)
                run["collate_share_of_step"] = round(share, 4)
                runs.append(
                    {
                        "objective": objective,
                        "shape": shape,
                        "batch_tokens": batch_tokens,
                        **run,
                    }
                )
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    content = {
        "claim": "破坏词元：整批写法是公开脚本逐行写法的几倍快，占训练一步的几成",
        "tokens": args.tokens,
        "summary": summarize(runs),
        "runs": runs,
    }
    print(record("corruption_speed", content))


if __name__ == "__main__":
    main()
