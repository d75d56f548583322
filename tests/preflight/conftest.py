"""让本文件夹的测试能导入 tests/ 里的共用帮手。"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
