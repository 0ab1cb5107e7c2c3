"""A person without a mouse: what the Tab key comes to has the focus, is marked, is in the window and is not covered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

MOST = 150  # presses
HIDDEN = """() => {
  const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const x = Math.min(Math.max(box.x + box.width / 2, 0), innerWidth - 1);
  const y = Math.min(Math.max(box.y + box.height / 2, 0), innerHeight - 1);
  const top = document.elementFromPoint(x, y);
  if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) return "is not marked";
  if (box.bottom <= 0 || box.right <= 0 || box.y >= innerHeight || box.x >= innerWidth) return "is out of the window";
  return top && (e.contains(top) || top.contains(e)) ? "" : "is covered";
}"""
NAME = "(e => e.id || e.ariaLabel || e.textContent.trim().slice(0, 60) || e.tagName)(document.activeElement)"


def focused(page: Page) -> str:
    """What has the focus, by its id, its label or its words; BODY where nothing has."""
    found: str = page.evaluate(
        "document.activeElement === document.body ? 'BODY' : document.activeElement.id === 'main' ? 'main' : " + NAME
    )
    return found


def tab_to(page: Page, wanted: str, *, back: bool = False) -> None:
    """Press Tab until an element that matches has the focus. Fails where it never comes, or where one is not seen."""
    met = []
    for _ in range(MOST):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        met.append(focused(page))
        if met[-1] not in ("BODY", "main"):
            assert page.evaluate(HIDDEN) == "", met[-1]
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"Tab never came to {wanted}, but to {met}")


def press(page: Page, wanted: str, key: str = "Enter", *, back: bool = False) -> None:
    """Go there and press a key."""
    tab_to(page, wanted, back=back)
    page.keyboard.press(key)


def write(page: Page, wanted: str, text: str, *, back: bool = False) -> None:
    """Go there and type in place of what is written."""
    tab_to(page, wanted, back=back)
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
