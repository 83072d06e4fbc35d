"""A browser for the tests of pages; both files of them skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATH = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), "")


@contextmanager
def launched(playwright: Any) -> Iterator[Any]:
    """The browser. playwright: `playwright.sync_api`."""
    with playwright.sync_playwright() as started:
        # Debian's chromium; its sandbox needs what a container has not.
        browser = started.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """Opens pages and notes whatever they log and ask for. seen: console messages, errors, addresses."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.seen: list[str] = []

    def open(self, file: Path, *, width: int = 1200, **options: Any) -> Any:
        context = self._browser.new_context(viewport={"width": width, "height": 800}, **options)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: self.seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        page.on("request", lambda request: self.seen.append(request.url))
        page.goto(file.as_uri())
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    @property
    def files(self) -> set[str]:
        """The files asked for."""
        return {one for one in self.seen if one.startswith("file:")}

    @property
    def others(self) -> list[str]:
        """All that was logged, and asked for beside files and data."""
        return [one for one in self.seen if not one.startswith(("file:", "data:"))]
