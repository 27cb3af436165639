# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show what kgcore relies on in a kernel, and what of that the kernel has."""

from collections.abc import Iterable, Iterator

from kgcore.errors import KgcoreError
from kgcore.model.layouts import Layout, LayoutName
from kgcore.sources.base import KnowsLayouts, Source
from kgcore.text import printable

__all__ = ("layout_lines", "layouts")


_ALWAYS = "4.18 and later"


def layouts(source: Source) -> tuple[Layout, ...]:
    """Compare a kernel with all that kgcore relies on in kernels.

    :param source: an opened dump or kernel.
    :return: one :class:`kgcore.Layout` for each thing that kgcore needs: which way this kernel has it, or what does not
        work without it.
    :raises KgcoreError: the source has no kernel whose structures could be compared, or its types are damaged.
    """
    if not isinstance(source, KnowsLayouts):
        raise KgcoreError("the source has no kernel structures", hint="a vmcore has them")
    return source.layouts()


def layout_lines(found: Iterable[Layout]) -> Iterator[str]:
    """Yield what ``kgcore info --layouts`` prints: what each thing is, with its names below it."""
    all_found = tuple(found)
    for use in dict.fromkeys(one.use for one in all_found):
        yield f"{use}:"
        for layout in (one for one in all_found if one.use == use):
            yield f"  {layout.state:<8} {layout.what}{_words(layout)}"
            for name in layout.names:
                yield f"             {_name(name)}"
        yield ""
    absent = [one for one in all_found if one.state == "absent"]
    unknown = sum(one.state == "unknown" for one in all_found)
    yield f"{len(all_found)} things, {len(absent)} absent, {unknown} unknown"
    for layout in absent:
        if layout.lost:
            yield f"without {layout.what}: {layout.lost}"


def _words(layout: Layout) -> str:
    since = f"as in {layout.since}" if layout.since and layout.since != _ALWAYS else ""
    words = (since, layout.how, layout.value and f"gives {layout.value}")
    text = "; ".join(filter(None, words))
    return f" ({printable(text)})" if text else ""


def _name(name: LayoutName) -> str:
    found = {True: name.value or "yes", False: "no", None: "unknown"}[name.found]
    return f"{printable(name.name)}: {printable(found)}"
