"""`python -m companion` 与命令 `companion` 相同。"""

from companion.cli import main

if __name__ == "__main__":
    main()
