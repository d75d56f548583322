"""设备与精度：问设备，不看环境变量。"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from companion.preflight import device
from companion.preflight.device import best_device, bf16_speedup, memory_limit


@pytest.fixture
def gpu(monkeypatch):
    """假装有一块 NVIDIA 显卡，计算能力由测试给。"""

    def install(capability: tuple[int, int], name: str = "GPU") -> None:
        properties = SimpleNamespace(name=name, total_memory=16 * 2**30)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        # T4 上这个函数也答“支持”（靠模拟），不能信它
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    return install


@pytest.fixture
def cpu(monkeypatch):
    """假装只有 CPU，bf16 的快慢由测试给。"""

    def install(ratio: float) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(device, "bf16_speedup", lambda: ratio)

    return install


@pytest.mark.parametrize(
    ("capability", "model_type", "precision"),
    [
        ((8, 0), None, "bf16"),
        ((9, 0), "t5", "bf16"),
        ((7, 5), "bert", "fp16"),
        ((7, 0), None, "fp16"),
        ((7, 5), "t5", "fp32"),
        ((7, 5), "mt5", "fp32"),
    ],
)
def test_the_precision_of_a_gpu_follows_its_capability(
    capability, model_type, precision, gpu
):
    """8.0 起用 bf16；更早用 fp16，会溢出的架构用 fp32。"""
    gpu(capability)
    chosen = best_device(model_type)
    assert (chosen.kind, chosen.precision) == ("cuda", precision)
    assert chosen.memory_bytes == 16 * 2**30


@pytest.mark.parametrize(
    ("ratio", "precision"), [(3.0, "bf16"), (1.1, "fp32"), (0.2, "fp32")]
)
def test_a_cpu_uses_bf16_only_where_it_wins_clearly(ratio, precision, cpu):
    """赛跑赢得多才用 bf16；打平与慢都用 fp32，缘由里有倍数。"""
    cpu(ratio)
    chosen = best_device()
    assert (chosen.kind, chosen.precision) == ("cpu", precision)
    assert f"{ratio:g}" in chosen.reason


def test_an_apple_gpu_uses_full_precision(monkeypatch):
    """MPS 用 fp32。"""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8 * 2**30)
    chosen = best_device()
    assert (chosen.kind, chosen.precision) == ("mps", "fp32")


def test_the_race_is_run_once_and_measures_a_ratio():
    """倍数是正数；第二次直接取缓存。"""
    bf16_speedup.cache_clear()
    first = bf16_speedup()
    assert first > 0
    assert bf16_speedup() == first
    assert bf16_speedup.cache_info().hits == 1


def test_the_race_does_not_touch_the_random_state():
    """测速不用随机数。"""
    bf16_speedup.cache_clear()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    bf16_speedup()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_environment_of_a_ci_changes_nothing(cpu, monkeypatch):
    """设了 CI 等变量，结果不变。"""
    cpu(1.0)
    before = best_device()
    for name in ("CI", "GITHUB_ACTIONS", "COLAB_GPU"):
        monkeypatch.setenv(name, "1")
    assert best_device() == before


def test_a_device_is_frozen_and_describes_itself(cpu):
    """结果不可改；印出来是一句中文。"""
    cpu(2.0)
    chosen = best_device()
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.kind = "cuda"
    assert "GB，bf16：实测" in str(chosen)


def test_the_memory_limit_honours_a_container(monkeypatch, tmp_path):
    """容器的上限小于物理内存时取容器的；写着 max 即不限。"""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(device, "_CGROUP_LIMITS", (limit,))
    physical = memory_limit()
    limit.write_text("max\n")
    assert memory_limit() == physical
    limit.write_text("1048576\n")
    assert memory_limit() == 1048576
