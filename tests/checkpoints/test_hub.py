"""从模型仓库打开：在子进程里，HF_ENDPOINT 指向本机上的仓库，HF_HOME 是全新的。"""

from pathlib import Path

import pytest
from hub_server import HubServer, answers_of
from model_folders import write_checkpoint, write_old_checkpoint

_SIKU, _BLOOM = "SIKU-BERT/sikubert", "bigscience/bloom-560m"

_PROGRAM = """
import json, os, sys
import pandas, scipy.optimize, torch._dynamo, torch.distributed.tensor  # 不看 HF_*

def load_all(names):
    from companion.errors import ModelError
    from companion.checkpoints.loading import load_checkpoint

    for name, objective in names:
        try:
            opened = load_checkpoint(name, objective)
            yield [type(opened.model).__name__, len(opened.tokenizer), opened.notices]
        except ModelError as error:
            yield [str(error)]

for environment, names in json.loads(sys.argv[1]):
    if os.fork():
        assert os.wait()[1] == 0
    else:
        os.environ.update(environment)
        print(json.dumps(list(load_all(names))), flush=True)
        break
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """两个仓库：SikuBERT 如真的那样只有旧式 .bin，BLOOM 是 safetensors。"""
    root = tmp_path_factory.mktemp("hub")
    folders = {
        _SIKU: write_old_checkpoint(root / "siku"),
        _BLOOM: write_checkpoint(root / "bloom", "bloom"),
    }
    with HubServer(folders) as server:
        yield server


def load_in_new_processes(
    home: Path, *wanted: tuple[dict[str, str], list[tuple[str, str]]]
) -> list[list[list]]:
    """依次在几个进程里逐个打开，每个得 [模型类, 词表大小, 提醒] 或 [错误消息]。

    环境变量在装入 huggingface_hub 之前给；几个进程从装好 torch 的一个分出。
    """
    return answers_of(_PROGRAM, wanted, {"HF_HOME": str(home)})


def test_checkpoints_load_through_a_hub_and_then_without_it(hub, tmp_path):
    """按编号打开两个真名的仓库；钉住的提交也行；随后断网仍能从缓存打开。

    端口上没有人时，说明镜像与离线的办法，不是一屏回溯。
    """
    commit = hub.commit(_SIKU)
    names = [
        (_SIKU, "masked_lm"),
        (f"{_SIKU}@{commit}", "masked_lm"),
        (_BLOOM, "causal_lm"),
        (f"{_SIKU}@v9", "masked_lm"),
        ("SIKU-BERT/sikubret", "masked_lm"),
    ]
    online, offline, unreachable = load_in_new_processes(
        tmp_path,
        ({"HF_ENDPOINT": hub.url}, names),
        ({"HF_ENDPOINT": f"{hub.url}/offline", "HF_HUB_OFFLINE": "1"}, names[:3]),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, names[4:]),
    )
    siku, pinned, bloom, wrong_revision, missing = online
    assert siku[0] == pinned[0] == "BertForMaskedLM"
    assert siku[1] == 233
    assert commit[:12] in siku[2][0]
    assert "weights_only" in siku[2][1]
    assert bloom[:2] == ["BloomForCausalLM", 420]
    assert "没有版本 'v9'" in wrong_revision[0]
    assert "没有 SIKU-BERT/sikubret，本地也没有" in missing[0]
    assert f"是不是想写 {_SIKU}" in missing[0]

    # 有 safetensors 的不取 .bin；也从不请第三方机器人改写仓库（那要查讨论区）
    assert not any("bloom" in line and line.endswith(".bin") for line in hub.requests)
    assert not any("discussions" in line for line in hub.requests)

    assert offline == online[:3]
    assert not any("/offline/" in line for line in hub.requests)

    [[answer]] = unreachable
    assert "连不上模型仓库" in answer
    assert "HF_ENDPOINT" in answer
