"""中间填补：论文的两种次序、切点与比例的分布、记号各家的写法，谁也没有丢、谁也看不见。"""

import itertools
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.corpus.document import Document
from companion.corpus.tokenization import text_ids
from companion.errors import ModelError, ObjectiveError
from companion.evaluation import build_targets, evaluate
from companion.evaluation.scoring import score_targets
from companion.inference import complete, infill
from companion.objectives import get_objective
from companion.objectives.fill_in_the_middle import NAMES, find_middle_tokens

GOAL = get_objective("fill_in_the_middle")
TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。勿以恶小而为之"
MANY = 2_000


@cache
def ready(kind: str):
    """记号齐备的分词器。"""
    return GOAL.with_special_tokens(tiny_tokenizer(kind))


def made(kind: str = "gpt2", **options):
    """总改写、总是 PSM、逐词元切；要别的另说。"""
    fixed = {"fim_rate": 1.0, "spm_rate": 0.0, "character_level": False}
    return GOAL.make_collator(ready(kind), **(fixed | options))


def ids_of(text: str = TEXT, kind: str = "gpt2") -> list[int]:
    """一段文字的编号。"""
    return text_ids(text, ready(kind))


def rows(collator, ids, count: int = MANY):
    """同一段文字改写许多次。"""
    return collator.examples(
        [{"input_ids": ids, "example_id": n} for n in range(count)]
    )


def parts(ids: list[int], marks) -> dict[str, list[int]]:
    """PSM 的一行拆回三段与结尾之后的。"""
    pre, suf, mid, end = marks
    a, b = ids.index(suf), ids.index(mid)
    stop = len(ids) - 1 if ids[-1] == end else len(ids)
    assert ids[0] == pre
    return {"prefix": ids[1:a], "suffix": ids[a + 1 : b], "middle": ids[b + 1 : stop]}


def test_the_example_of_the_paper():
    """给定中段，PSM 与 SPM 恰是论文的两行；标签照抄，首个词元没有；考的只有中段。"""
    ids, (pre, suf, mid, end) = ids_of(), find_middle_tokens(ready("gpt2"))
    noise = np.zeros(len(ids), bool)
    noise[3:8] = True
    row = made().hide({"input_ids": ids}, noise)
    wanted = [pre, *ids[:3], suf, *ids[8:], mid, *ids[3:8], end]
    assert row.input_ids.tolist() == wanted
    assert row.labels.tolist() == [-100, *wanted[1:]]
    assert row.origin[row.hidden].tolist() == [3, 4, 5, 6, 7]
    [spm] = rows(made(spm_rate=1.0), ids, 1)
    [psm] = rows(made(spm_rate=0.0), ids, 1)
    found = parts(psm.input_ids.tolist(), (pre, suf, mid, end))
    assert spm.input_ids.tolist() == [
        *(pre, suf, *found["suffix"], mid, *found["prefix"], *found["middle"], end)
    ]


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "llama", "qwen3", "bert", "t5"])
@pytest.mark.parametrize("by_character", [True, False])
def test_the_three_pieces_are_the_text(kind, by_character):
    """三段照原来的次序接回去，一字不差；一半左右的 PSM 与 SPM 都在内。"""
    tokenizer, ids = ready(kind), ids_of(kind=kind)
    pre, suf, mid, end = find_middle_tokens(tokenizer)
    write = lambda each: tokenizer.decode(each).replace(" ", "")  # noqa: E731
    for row in rows(made(kind, character_level=by_character, spm_rate=0.5), ids, 60):
        line = row.input_ids.tolist()
        line = line[: len(line) - (line[-1] == end)]
        if line[1] == suf:  # SPM：中段接在前段后面，分不出切在哪里
            at = line.index(mid)
            whole = line[at + 1 :] + line[2:at]
            assert line[0] == pre
        else:
            found = parts(line, (pre, suf, mid, -1))
            whole = found["prefix"] + found["middle"] + found["suffix"]
        assert write(whole) == write(ids)
        if not by_character:
            assert whole == ids


def test_a_cut_may_fall_inside_a_token():
    """逐字切时切点在各个字之间都有；逐词元切时，一个词元从不拆开。"""
    ids = ids_of()
    same = [len(ids) + 4 == len(row.input_ids) for row in rows(made(), ids, 300)]
    assert all(same)
    found = rows(made(character_level=True), ids)
    assert any(len(row.input_ids) > len(ids) + 4 for row in found)
    assert max(len(row.input_ids) for row in found) <= len(ids) + 8
    tokenizer = ready("gpt2")
    marks = find_middle_tokens(tokenizer)
    starts = {
        len(tokenizer.decode(parts(row.input_ids.tolist(), marks)["prefix"]))
        for row in found
    }
    assert starts == set(range(len(TEXT) + 1))


def test_rates_and_cuts_have_the_distribution_of_the_paper():
    """2,000 行里一半改写，其中一半是 SPM；切点各自均匀，三段平均各占三分之一。"""
    ids = ids_of()
    tokenizer = ready("gpt2")
    marks = find_middle_tokens(tokenizer)
    found = rows(GOAL.make_collator(tokenizer), ids)
    kinds = Counter(
        "plain" if row[0] != marks[0] else "spm" if row[1] == marks[1] else "psm"
        for row in (each.input_ids.tolist() for each in found)
    )
    for kind, share in (("plain", 0.5), ("spm", 0.25), ("psm", 0.25)):
        spread = (share * (1 - share) / MANY) ** 0.5
        assert kinds[kind] / MANY == pytest.approx(share, abs=4 * spread)
    lengths = [
        [len(piece) for piece in parts(row.input_ids.tolist(), marks).values()]
        for row in rows(made(), ids)
    ]
    means = np.array(lengths).mean(0) / len(ids)
    assert means == pytest.approx(np.full(3, 1 / 3), abs=0.03)
    # 两个独立均匀的切点：中段为空的机会是 1/(T+1)
    empty = np.mean([middle == 0 for _, _, middle in lengths])
    assert empty == pytest.approx(1 / (len(ids) + 1), abs=0.02)


@pytest.mark.parametrize("names", NAMES)
def test_each_family_is_found_by_name(names):
    """五家的记号各按名字找到；CodeLlama 的中段有自己的结尾，别家用文档结尾。"""
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_special_tokens({"extra_special_tokens": [n for n in names if n]})
    assert not GOAL.missing_tokens(tokenizer)
    assert GOAL.with_special_tokens(tokenizer) is tokenizer
    *marks, end = find_middle_tokens(tokenizer)
    assert tokenizer.convert_ids_to_tokens(marks) == list(names[:3])
    stop = names[3] or tokenizer.eos_token
    assert tokenizer.convert_ids_to_tokens(end) == stop


def test_a_tokenizer_without_marks_is_refused_by_the_collator():
    """整理器不自己改词表：缺记号就说缺什么、怎么办。"""
    with pytest.raises(ObjectiveError, match=r"fim_prefix.*load_checkpoint"):
        GOAL.make_collator(tiny_tokenizer("gpt2"))


def test_opening_adds_the_marks_and_says_so(tmp_path):
    """打开时添三个记号，提醒里点名；旧词元的 logits 不变；存下再开，不再添。"""
    tokenizer = tiny_tokenizer("gpt2")
    save_checkpoint(tiny_model("gpt2"), tokenizer, tmp_path / "a")
    plain = load_checkpoint(str(tmp_path / "a"), "causal_lm")
    opened = load_checkpoint(str(tmp_path / "a"), "fill_in_the_middle")
    [notice] = [each for each in opened.notices if "fim_prefix" in each]
    assert "fim_middle" in notice
    assert len(opened.tokenizer) == len(tokenizer) + 3
    batch = {"input_ids": torch.tensor([ids_of()])}
    old, new = plain.model(**batch).logits, opened.model(**batch).logits
    torch.testing.assert_close(new[..., : old.shape[-1]], old)
    marks = opened.model.get_input_embeddings().weight[-3:]
    assert not torch.allclose(marks[0], marks[1])
    save_checkpoint(opened.model, opened.tokenizer, tmp_path / "b")
    again = load_checkpoint(str(tmp_path / "b"), "fill_in_the_middle")
    assert not [each for each in again.notices if "fim_prefix" in each]
    assert len(again.tokenizer) == len(opened.tokenizer)


def test_documents_in_one_row_are_rearranged_apart():
    """一行三篇各自改写：词元都留在自己那一篇里，首个词元没有标签，出处指回原行。"""
    ids = ids_of()
    eos = ready("gpt2").eos_token_id
    whole = [*ids, eos, *ids[:6], eos, *ids[5:9]]
    starts = [0, len(ids) + 1, len(ids) + 8]
    feature = {"input_ids": whole, "document_starts": starts, "example_id": 4}
    collator = made(spm_rate=0.5)
    [row] = collator.examples([feature])
    stops = [*starts[1:], len(whole)]
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        mine = row.documents == number
        kept = row.origin[mine & (row.origin >= 0)].tolist()
        assert sorted(kept) == list(range(start, stop))
        assert row.labels[mine][0] == -100
        assert (row.labels[mine][1:] == row.input_ids[mine][1:]).all()
        assert row.input_ids[mine].tolist().count(eos) == 1  # 没有结尾的也添上
    kept = row.origin >= 0
    assert row.input_ids[kept].tolist() == [whole[at] for at in row.origin[kept]]
    assert collator.collate([row])["attention_mask"].ndim == 4


def test_the_middle_is_not_seen_before_it_is_written():
    """在真批量上改动中段的一个词元：它前面每个位置的输出一点不变，后面的变。"""
    model = tiny_model("gpt2", ready("gpt2"))
    [row] = rows(made(), ids_of(), 1)
    batch = made().collate([row])
    at = int(row.hidden.nonzero()[0, 0])
    before = model(**batch).logits
    batch["input_ids"][0, at] = ids_of()[-1]
    after = model(**batch).logits
    torch.testing.assert_close(after[0, :at], before[0, :at], rtol=0, atol=0)
    assert not torch.allclose(after[0, at:], before[0, at:])


def documents() -> list[Document]:
    """一篇四句。"""
    fours = [TINY_TEXT[n : n + 4] for n in range(0, len(TINY_TEXT), 4)]
    return [Document("".join(four), str(n), "") for n, four in enumerate(fours)]


def test_the_exam_asks_the_same_tokens_both_ways():
    """评估目标只考中段；照原来次序的一份考的是同样的词元、同样的字，左边的也是原来的。"""
    targets = build_targets(ready("gpt2"), GOAL, documents(), block_size=64)
    for row in targets.rows:
        chosen = row.labels != -100
        plain = row.unmoved.labels != -100
        assert row.labels[chosen].tolist() == row.unmoved.labels[plain].tolist()
        assert chosen.sum() > 0
        places = row.example.origin[chosen]
        assert places.tolist() == plain.nonzero()[:, 0].tolist()
        assert places.tolist() == list(range(int(places[0]), int(places[-1]) + 1))
    again = build_targets(ready("gpt2"), GOAL, documents(), block_size=64)
    assert again.fingerprint == targets.fingerprint


@torch.no_grad()
def bits_by_hand(model, ids, labels) -> float:
    """一行里有标签处的比特数，位置 t − 1 的输出猜第 t 个。"""
    told = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    at = (labels != -100).nonzero()[:, 0]
    return -float(told[at - 1, labels[at]].sum()) / np.log(2)


def test_both_scores_are_worked_out_by_hand():
    """中段的每字比特数与只看左边的，都等于逐行手算；均匀的模型两个都是 log₂ V。"""
    tokenizer = ready("gpt2")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "tiny")
    targets = build_targets(tokenizer, GOAL, documents(), block_size=64)
    scores = score_targets(checkpoint.model, targets).scores
    moved = sum(
        bits_by_hand(checkpoint.model, row.example.input_ids, row.labels)
        for row in targets.rows
    )
    plain = sum(
        bits_by_hand(checkpoint.model, row.unmoved.input_ids, row.unmoved.labels)
        for row in targets.rows
    )
    assert scores.bits_per_char == pytest.approx(moved / targets.num_chars, rel=1e-5)
    assert scores.left_only == pytest.approx(plain / targets.num_chars, rel=1e-5)
    assert scores.as_dict()["left_only"] == scores.left_only
    with torch.no_grad():
        checkpoint.model.lm_head.weight.zero_()
    flat = evaluate(checkpoint, GOAL, documents(), block_size=64).scores
    assert flat.loss_nats_per_token == pytest.approx(np.log(len(tokenizer)), rel=1e-5)
    assert flat.left_only == pytest.approx(flat.bits_per_char, rel=1e-5)


def favour(model, wanted: list[int], amount: float = 50.0) -> None:
    """依次要它写 `wanted`：第 k 次问末位时，抬高第 k 个。"""
    turn = itertools.count()

    def lift(_module, _args, logits):
        logits[:, -1, wanted[min(next(turn), len(wanted) - 1)]] += amount
        return logits

    model.lm_head.register_forward_hook(lift)


def test_infill_reads_both_sides_and_stops_at_the_end():
    """读的是 <PRE> 前 <SUF> 后 <MID>；写到结尾为止，放回缺处；记号从不写出。"""
    tokenizer = ready("gpt2")
    model = tiny_model("gpt2", tokenizer)
    pre, suf, mid, end = find_middle_tokens(tokenizer)
    answer = ids_of("走狗烹")
    favour(model, [*answer, end])
    read: list[list[int]] = []
    model.register_forward_pre_hook(
        lambda _m, _a, given: read.append(given["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    checkpoint = Checkpoint(model, tokenizer, "tiny")
    found = infill(checkpoint, "狡兔死，[MASK]；飞鸟尽")
    assert read[0] == [pre, *ids_of("狡兔死，"), suf, *ids_of("；飞鸟尽"), mid]
    assert found.text == "狡兔死，走狗烹；飞鸟尽"
    assert found.fills == ["走狗烹"]
    assert found.finished == [True]
    favour(model, [suf], 1e4)
    drawn = infill(checkpoint, "狡兔死，[MASK]；", 6, objective=GOAL.key, num_beams=2)
    assert "fim" not in drawn.text


def test_infill_takes_one_gap_at_a_time():
    """两处缺文一次写不了：说清至多几处。"""
    tokenizer = ready("gpt2")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "tiny")
    with pytest.raises(ModelError, match=r"缺 2 处.*至多写 1 处"):
        infill(checkpoint, "狡兔[MASK]，走狗[MASK]", objective=GOAL.key)


def test_it_still_continues_from_the_left():
    """续写照旧从左到右，与当作因果语言模型续写一字不差。"""
    tokenizer = ready("gpt2")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "tiny")
    ours = complete(checkpoint, "狡兔死，", 8, objective=GOAL.key)
    assert ours == complete(checkpoint, "狡兔死，", 8, objective="causal_lm")
