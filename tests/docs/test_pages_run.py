"""Every code block of the documentation runs, and prints what the page shows."""

import sys
from pathlib import Path

import pytest

from tests.docs.execute import Reader, compare, make_tools, modules_of
from tests.docs.pages import PAGES, Block, blocks, name_of

LANGUAGES = {"python", "bash", "text", "mermaid", "json", "toml", "sql", "ini"}


def _tiers(page: Path) -> list[pytest.MarkDecorator]:
    text = page.read_text("utf-8")
    marks = {"EmbeddedKafka()": pytest.mark.embedded, "sqlite:///": pytest.mark.sqlite}
    return [mark for words, mark in marks.items() if words in text]


RUNNABLE = [page for page in PAGES if any(b.executed and b.language in ("python", "bash") for b in blocks(page))]


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page), marks=_tiers(page)) for page in RUNNABLE])
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with modules_of(folder):
        assert Reader(page, folder, make_tools(tmp_path / "tools")).follow() > 0


def test_the_pages_that_teach_are_among_those_that_run() -> None:
    names = {name_of(page) for page in RUNNABLE}
    assert {"README.md", "docs/tutorial/first-saga.md", "docs/how-to/test-a-saga.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_its_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: a block of {block.language or 'no language'}"


class TestTheHarness:
    """It fails where a page is wrong; otherwise it would prove nothing."""

    @pytest.fixture
    def page(self, tmp_path: Path) -> Path:
        return tmp_path / "page.md"

    def follow(self, page: Path, text: str, tmp_path: Path) -> int:
        page.write_text(text, "utf-8")
        (tmp_path / "folder").mkdir()
        return Reader(page, tmp_path / "folder", make_tools(tmp_path / "tools")).follow()

    @pytest.mark.parametrize(
        "wrong",
        [
            "```python\n1 / 0\n```\n",
            "```python\ndef test_x():\n    assert False\n```\n",
            "```bash\nfalse\n```\n",
            "```bash\nfalse | true\n```\n",
            "```python\nprint(1)\n```\nIt prints:\n```text\n2\n```\n",
            "```bash\necho 1; echo 2\n```\n```text\n1\n```\n",
        ],
    )
    def test_what_is_wrong_is_found(
        self, wrong: str, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Block, "where", property(lambda block: f"{block.page}:{block.line}"))
        with pytest.raises((AssertionError, ZeroDivisionError)):
            self.follow(page, wrong, tmp_path)

    def test_blocks_share_names_files_and_exports(self, page: Path, tmp_path: Path) -> None:
        text = (
            '```python title="one.py"\nprint(1)\n```\n'
            "```bash\nexport WORD=two\npython one.py\n```\n```text\n1\n```\n"
            "```bash\necho $WORD\n```\n```text\ntwo\n```\n"
            "```python\nx = 3\n```\n```python\nprint(x)\n```\n```text\n3\n```\n"
            "<!-- not executed -->\n```python\n1 / 0\n```\n"
        )
        assert self.follow(page, text, tmp_path) == 5
        assert not any(name.startswith("page_") for name in sys.modules)

    def test_output_may_differ_where_the_page_says_so(self, page: Path) -> None:
        shown = Block(page, 1, "text", None, "begin\n…\nat 10:00:00  id …!\n", executed=True)
        compare(shown, "begin\nx\ny\nat 23:59:59.1 id whatever!\n")
        compare(shown, "begin\nat 23:59:59 id !\n\n")
