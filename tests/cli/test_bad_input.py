"""坏输入：退出码 1，一条中文消息，说中要害，没有栈回溯，也不留半成品。"""

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Build = Callable[[Path], dict[str, Any]]
"""在一个空文件夹里造出坏输入，返回要改写的选项；值为 None 的选项去掉。"""


def _written(name: str, content: bytes) -> Build:
    def build(folder: Path) -> dict[str, Any]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"--corpus": path}

    return build


def _given(**options: Any) -> Build:
    named = {"--" + name.replace("_", "-"): value for name, value in options.items()}
    return lambda _folder: named


def _set(setting: str) -> Build:
    return lambda _folder: {"--set": setting}


def _yaml(content: str) -> Build:
    def build(folder: Path) -> dict[str, Any]:
        path = folder / "设置.yaml"
        path.write_text(content, encoding="utf-8")
        return {"--config": path}

    return build


def _unreadable(folder: Path) -> dict[str, Any]:
    path = folder / "锁住.txt"
    path.write_text("狡兔死", encoding="utf-8")
    path.chmod(0)
    return {"--corpus": path}


def _empty_folder(folder: Path) -> dict[str, Any]:
    (folder / "空").mkdir()
    return {"--corpus": folder / "空"}


def _truncated_gzip(folder: Path) -> dict[str, Any]:
    whole = gzip.compress("狡兔死，走狗烹。\n".encode() * 500)
    (folder / "断.txt.gz").write_bytes(whole[: len(whole) // 2])
    return {"--corpus": folder / "断.txt.gz"}


TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。\n" * 30

CORPORA: dict[str, tuple[Build, tuple[str, ...]]] = {
    "没有这个文件": (_given(corpus="没有.txt"), ("没有.txt",)),
    "名字拼错": (_given(corpus="sample:clasical"), ("sample:classical",)),
    "空文件": (_written("空.txt", b""), ("空.txt",)),
    "只有空白": (_written("白.txt", b"\n \n\t\n\xe3\x80\x80\n"), ("白.txt",)),
    "二进制": (_written("图.txt", bytes(range(256)) * 40), ("图.txt",)),
    "截断的 gzip": (_truncated_gzip, ("断.txt.gz",)),
    "乱码": (
        _written("乱.txt", TEXT.encode().decode("latin-1").encode()),
        ("乱.txt", "字节"),
    ),
    "UTF-16 缺字节": (
        _written("十六.txt", b"\xff\xfe" + TEXT.encode("utf-16-le")[:-1]),
        ("十六.txt",),
    ),
    "坏的 JSON 行": (
        _written("坏.jsonl", '{"text": "狡兔死"}\n{"text": "走狗\n'.encode()),
        ("坏.jsonl", "第 2 行"),
    ),
    "缺字段": (
        _written("缺.jsonl", '{"text": "狡兔死"}\n{"txet": "走狗"}\n'.encode()),
        ("缺.jsonl", "第 2 行", "text"),
    ),
    "列数不齐的 TSV": (
        _written("歪.tsv", "狡兔死\t兔子死了\n走狗烹\n".encode()),
        ("歪.tsv", "第 2 行"),
    ),
    "空文件夹": (_empty_folder, ("空",)),
    "不认识的后缀": (_written("书.docx", b"PK"), ("书.docx", ".jsonl")),
    "只有一篇一句": (_written("短.txt", "狡兔死".encode()), ("--valid",)),
}

SETTINGS: dict[str, tuple[Build, tuple[str, ...]]] = {
    "YAML 语法错": (_yaml("seed: [1, 2\nmodel: x\n"), ("设置.yaml", "行")),
    "YAML 名字拼错": (_yaml("learning_rat: 0.1\n"), ("是不是想写 learning_rate",)),
    "YAML 想执行代码": (
        _yaml("seed: !!python/object/apply:os.system ['touch 中招']\n"),
        ("设置.yaml", "不执行"),
    ),
    "YAML 不是映射": (_yaml("- 1\n- 2\n"), ("设置.yaml", "不是映射")),
    "没有这个 YAML": (_given(config="没有.yaml"), ("没有.yaml",)),
    "没有这个目标": (_given(objective="maskedlm"), ("是不是想写 masked_lm",)),
    "没有这个设置": (_set("learningrate=0.1"), ("是不是想写 learning_rate",)),
    "设置没有等号": (_set("learning_rate"), ("名字=值",)),
    "设置不是数": (_set("learning_rate=快"), ("learning_rate", "数")),
    "设置给了两次": (_set("seed=1"), ("--seed", "只给一次")),
    "负的步数": (_given(max_steps=-5), ("max_steps", "正整数")),
    "比例大于一": (_given(replay_ratio=1.5), ("replay_ratio", "0 与 1 之间")),
    "没有回放却给比例": (_given(replay_ratio=0.2), ("replay_ratio", "加上 replay")),
    "没有扩充却给步数": (_set("embedding_steps=5"), ("new_characters", "没有作用")),
    "序列到序列的选项": (_set("noise_density=0.3"), ("noise_density", "span_corr")),
    "句对的选项": (_set("languages=zh,zh"), ("languages 只用于 translation_lm",)),
    "句序的选项": (_set("rotate=true"), ("rotate 只用于 text_infilling",)),
    "行比批量长": (_set("block_size=8192"), ("tokens_per_batch",)),
    "行比模型的上限长": (_set("block_size=512"), ("128",)),
    "没有给语料": (_given(corpus=None), ("--corpus",)),
    "没有可续的训练": (_given(resume=True), ("--resume", "config.yaml")),
}


@pytest.fixture
def attempt(
    run: Callable[..., Any],
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """以一处坏输入运行 train；核对退出码、消息的样子，以及什么也没写下。"""
    monkeypatch.chdir(tmp_path)

    def train(build: Build, *said: str) -> Any:
        inputs = tmp_path / "输入"
        inputs.mkdir()
        (inputs / "好.txt").write_text(TEXT.replace("。\n", "。\n\n"), encoding="utf-8")
        options: dict[str, Any] = {
            "--objective": "masked_lm",
            "--model": checkpoints / "bert",
            "--corpus": inputs / "好.txt",
            "--output": tmp_path / "输出",
            "--max-steps": 1,
            "--seed": 1,
            **build(inputs),
        }
        before = _snapshot(tmp_path)
        words: list[Any] = []
        for name, value in options.items():
            if value is not None:
                words += [name] if value is True else [name, value]
        result = run("train", *words)
        assert_user_error(result, *said)
        assert _snapshot(tmp_path) == before
        return result

    return train


def assert_user_error(result: Any, *said: str) -> None:
    """退出码 1，标准输出空，标准错误末行是一条三段俱全的消息。"""
    assert result.exit_code == 1, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("发现：")
    assert all(part in message for part in ("。应当：", "。可以："))
    for words in said:
        assert words in message


def _snapshot(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", CORPORA)
def test_a_bad_corpus_is_refused_by_name(
    name: str, attempt: Callable[..., Any]
) -> None:
    """读不了、解不开、不成样子的语料：说出文件与位置，输出文件夹不曾出现。"""
    build, said = CORPORA[name]
    attempt(build, *said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root 读得了任何文件")
def test_an_unreadable_corpus_is_refused(attempt: Callable[..., Any]) -> None:
    """没有读取权限。"""
    attempt(_unreadable, "锁住.txt", "权限")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_bad_setting_is_refused_by_name(
    name: str, attempt: Callable[..., Any]
) -> None:
    """写错、越界、矛盾、想执行代码的设置：说出哪一项、应当怎样。"""
    build, said = SETTINGS[name]
    attempt(build, *said)


def _copied(checkpoints: Path, kind: str, change: Callable[[Path], None]) -> Build:
    def build(folder: Path) -> dict[str, Any]:
        model = folder / "模型"
        shutil.copytree(checkpoints / kind, model)
        change(model)
        return {"--model": model}

    return build


def _drop_half_of_the_weights(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    save_file(
        {name: weights[name] for name in names[: len(names) // 2]},
        model / "model.safetensors",
        metadata={"format": "pt"},
    )


class _Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("中招",)


def _replace_weights_by_a_pickle_that_runs_code(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(
        pickle.dumps({"weight": _Malice()}, protocol=2)
    )


def _add_tokens_without_embeddings(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"新词{number}" for number in range(9)])
    tokenizer.save_pretrained(model)


def _forget_the_mask_token(model: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = model / name
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("mask_token", None)
            path.write_text(json.dumps(content), encoding="utf-8")
    path = model / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["mask_token"] = None
    path.write_text(json.dumps(content), encoding="utf-8")


def _ask_for_remote_code(model: Path) -> None:
    path = model / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {"model_type": "外来", "auto_map": {"AutoConfig": "外来.Config"}}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_half_of_the_weights, ("缺",)),
        (_replace_weights_by_a_pickle_that_runs_code, ()),
        (_add_tokens_without_embeddings, ("编号", "词嵌入")),
        (_forget_the_mask_token, ("掩码词元",)),
        (_ask_for_remote_code, ("代码",)),
        (lambda model: (model / "config.json").unlink(), ("config.json",)),
        (lambda model: (model / "config.json").write_text("{"), ("config.json",)),
    ],
    ids=["half", "pickle", "ids", "mask", "remote-code", "no-config", "broken-config"],
)
def test_a_bad_checkpoint_is_refused(
    change: Callable[[Path], None],
    said: tuple[str, ...],
    attempt: Callable[..., Any],
    checkpoints: Path,
) -> None:
    """残缺、会执行代码、与分词器不配的检查点：不打开，不训练，代码不曾执行。"""
    attempt(_copied(checkpoints, "bert", change), *said)


def test_a_checkpoint_of_another_family_is_refused_with_the_right_objective(
    attempt: Callable[..., Any], checkpoints: Path, run: Callable[..., Any]
) -> None:
    """解码器不能做掩码语言建模，编码器不能做因果语言建模；消息给出对的那个。"""
    attempt(_given(model=checkpoints / "bloom"), "解码器", "causal_lm")
    for command in (
        ("complete", "狡兔死", "--model", checkpoints / "bert"),
        ("check", "--objective", "causal_lm", "--model", checkpoints / "bert"),
    ):
        assert_user_error(run(*command), "编码器", "masked_lm")
    assert_user_error(
        run("fill", "狡兔[MASK]", "--model", checkpoints / "bloom"), "解码器"
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("starter:brt", "starter:"),
        ("./没有这个文件夹", "没有这个文件夹"),
        ("SIKU-BERT/sikubrt", "SIKU-BERT/sikubert"),
    ],
)
def test_an_unknown_model_is_refused_with_a_guess(
    model: str, said: str, attempt: Callable[..., Any]
) -> None:
    """没有的起步模型、文件夹、仓库：消息列出有的，或猜最接近的。"""
    attempt(_given(model=model), said)


def test_an_output_under_a_file_is_refused(attempt: Callable[..., Any]) -> None:
    """输出文件夹的上级是个文件：写不进去。"""

    def build(folder: Path) -> dict[str, Any]:
        return {"--output": folder / "好.txt" / "输出"}

    attempt(build, "好.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root 写得了任何文件夹")
def test_an_output_that_is_not_writable_is_refused(
    attempt: Callable[..., Any],
) -> None:
    """没有写权限的上级文件夹。"""

    def build(folder: Path) -> dict[str, Any]:
        (folder / "只读").mkdir(mode=0o555)
        return {"--output": folder / "只读" / "输出"}

    attempt(build, "只读", "写")


@pytest.mark.parametrize(
    ("name", "said"), [("config.yaml", "另一次运行"), ("别人的.txt", "别的文件")]
)
def test_an_output_holding_something_is_never_overwritten(
    name: str, said: str, attempt: Callable[..., Any], tmp_path: Path
) -> None:
    """输出文件夹里已有另一次运行或别的文件：原样不动；是运行就提到 --resume。"""

    def build(folder: Path) -> dict[str, Any]:
        (folder / "旧").mkdir()
        (folder / "旧" / name).write_text("seed: 1\n", encoding="utf-8")
        return {"--output": folder / "旧"}

    attempt(build, said, "--output")
    assert (tmp_path / "输入" / "旧" / name).read_text(encoding="utf-8") == "seed: 1\n"


def test_a_full_disk_keeps_the_old_checkpoint(
    run: Callable[..., Any],
    checkpoints: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """存盘时磁盘满：退出码 1，消息说清，先前的检查点还在。"""
    import errno

    from companion.checkpoints import saving

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "_write", full)
    result = run(
        "train", "--objective", "masked_lm", "--model", checkpoints / "bert",
        "--corpus", corpus, "--output", tmp_path / "输出", "--max-steps", 2,
        "--set", "save_steps=1", "--set", "eval=false",
    )  # fmt: skip
    assert_user_error(result, "磁盘已满")
    assert not (tmp_path / "输出" / "model").exists()
    assert (tmp_path / "输出" / "checkpoint-1").is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "nope", "狡兔死"), "causal_lm、masked_lm"),
        (("show", "masked_lm", " "), "空的"),
        (("show", "causal_lm", "狡兔死", "--mlm-probability", "0.3"), "没有参数"),
        (("show", "masked_lm", "狡兔死", "--mlm-probability", "3"), "mlm_probability"),
        (("show", "masked_lm", "狡兔死", "--granularity", "字"), "whole_word"),
        (("show", "masked_lm", "狡兔", "走狗", "--png", "图.png"), "--packed"),
        (("show", "masked_lm", "狡兔死", "--png", "图.gif"), ".png"),
        (("fill", "没有掩码"), "[MASK]"),
        (("fill", "狡兔[MASK]", "--top-k", "0"), "top_k"),
        (("fill", "狡" * 300 + "[MASK]"), "位置上限 128"),
        (("corpus", "clean", "sample", "--output", "无后缀"), "后缀"),
        (("corpus", "split", "sample:classical", "--output", "o", "--valid-ratio", "2"),
         "valid_ratio"),
        (("corpus", "clean", "sample", "--output", "o.jsonl", "--rule", "ncf"), "nfc"),
        (("corpus", "fetch", "tongjan"), "tongjian"),
        (("corpus", "fetch", "sample"), "随包附带"),
        (("demo", "--objective", "maskedlm"), "masked_lm"),
    ],
)  # fmt: skip
def test_the_other_commands_refuse_bad_input_too(
    words: tuple[str, ...],
    said: str,
    run: Callable[..., Any],
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """同样的规矩：一条消息，退出码 1，什么也不写下。"""
    monkeypatch.chdir(tmp_path)
    if words[0] in ("show", "fill"):
        kind = "bloom" if "causal_lm" in words else "bert"
        words = (*words, "--model", str(checkpoints / kind))
    assert_user_error(run(*words), said)
    assert list(tmp_path.iterdir()) == []
