"""另外的记录器：没有装就按名拒绝；装了的在本机离线记一次，途中评估的数也在。"""

from importlib.util import find_spec

import pytest

from companion.errors import ConfigError
from companion.training import arguments, train

pytestmark = pytest.mark.usefixtures("no_curve")

LOGGERS = ("tensorboard", "wandb", "swanlab", "mlflow")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_that_is_not_installed_is_refused(
    name, tmp_path, configure, monkeypatch
):
    """说出名字与安装的命令，什么也没写。"""
    monkeypatch.setattr(arguments, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=f"没有安装 {name}.*pip install {name}"):
        train(configure(tmp_path / "输出", report_to=name), quiet=True)
    assert not (tmp_path / "输出").exists()


@pytest.mark.parametrize("name", LOGGERS)
def test_a_local_offline_run_is_logged(name, tmp_path, configure, monkeypatch):
    """离线记一次：留下它自己的文件，训练照常走完。"""
    if find_spec(name) is None:
        pytest.skip(f"没有安装 {name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = configure(
        tmp_path / "输出", report_to=name, eval=True, eval_steps=2, max_steps=4
    )
    assert train(config, quiet=True).metrics["steps"] == 4
    wanted = {
        "tensorboard": "输出/runs/*/events*",
        "wandb": "wandb/offline-run-*/*.wandb",
        "swanlab": "swanlog/run-*/*.swanlab",
        "mlflow": "mlruns/*/*/metrics/eval_domain",
    }
    assert list(tmp_path.glob(wanted[name]))
